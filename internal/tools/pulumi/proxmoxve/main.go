// Command proxmoxve is pulumi-resource-proxmoxve, bridged from bpg's Terraform provider as the official plugin is.
package main

import (
	"context"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"cloudlab/internal/tools/pulumi/proxmoxve/provider"
)

func main() {
	tfbridge.MainWithMuxer(context.Background(), provider.Name, provider.New(), provider.Schema)
}
