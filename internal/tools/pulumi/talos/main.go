// Command talos is pulumi-resource-talos, bridged from the Talos Terraform provider as the official plugin is.
//
//go:debug x509usefallbackroots=1
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"cloudlab/internal/tools/pulumi/talos/provider"
	"cloudlab/internal/tools/pulumi/trust"
)

func main() {
	if err := trust.FromEnvironment(); err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-talos:", err)
		os.Exit(1)
	}
	tfbridge.Main(context.Background(), provider.Name, provider.New(),
		tfbridge.ProviderMetadata{PackageSchema: provider.Schema, BridgeMetadata: provider.Metadata})
}
