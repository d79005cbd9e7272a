// Command gen writes the schema and the bridge metadata that the plugin embeds. Run it after raising a version:
//
//	go run ./talos/gen schema --out talos/provider
package main

import (
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"

	"cloudlab/internal/tools/pulumi/talos/provider"
)

func main() { tfgen.Main(provider.Name, provider.New()) }
