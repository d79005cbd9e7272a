// Command talos is pulumi-resource-talos, bridged from the Talos Terraform provider as the official plugin is.
package main

import (
	"context"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"cloudlab/internal/tools/pulumi/talos/provider"
)

func main() {
	tfbridge.Main(context.Background(), provider.Name, provider.New(),
		tfbridge.ProviderMetadata{PackageSchema: provider.Schema, BridgeMetadata: provider.Metadata})
}
