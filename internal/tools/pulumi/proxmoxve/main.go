// Command proxmoxve is pulumi-resource-proxmoxve, bridged from bpg's Terraform provider as the official plugin is.
//
//go:debug x509usefallbackroots=1
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"cloudlab/internal/tools/pulumi/proxmoxve/provider"
	"cloudlab/internal/tools/pulumi/trust"
)

func main() {
	if err := trust.FromEnvironment(); err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-proxmoxve:", err)
		os.Exit(1)
	}
	tfbridge.MainWithMuxer(context.Background(), provider.Name, provider.New(), provider.Schema)
}
