// Command gen writes the schema and the bridge metadata that the plugin embeds. Run it after raising a version:
//
//	go run ./proxmoxve/gen schema --out proxmoxve/provider
package main

import (
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"

	"cloudlab/internal/tools/pulumi/proxmoxve/provider"
)

func main() { tfgen.MainWithMuxer(provider.Name, provider.New()) }
