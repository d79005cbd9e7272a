// Package provider maps the part of the Talos Terraform provider that Cloudlab uses to the tokens of pulumi-talos v0.7.
//
// It exists so that a machine without the official plugin release can build one from Go modules.
package provider

import (
	_ "embed" // for the generated files

	pf "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim"
	"github.com/siderolabs/terraform-provider-talos/pkg/talos"
)

// Name is the Pulumi package, Version the official release whose SDK the program imports.
const (
	Name    = "talos"
	Version = "0.7.1"
)

// Schema and Metadata are generated from this package by the gen command beside it.
var (
	//go:embed schema.json
	Schema []byte
	//go:embed bridge-metadata.json
	Metadata []byte
)

// New describes the bridged provider.
func New() tfbridge.ProviderInfo {
	secret := func() *tfbridge.SchemaInfo { return &tfbridge.SchemaInfo{Secret: tfbridge.True()} }
	resources := map[string]*tfbridge.ResourceInfo{
		"talos_cluster_kubeconfig": {
			Tok:    tfbridge.MakeResource(Name, "cluster", "Kubeconfig"),
			Fields: map[string]*tfbridge.SchemaInfo{"kubeconfig_raw": secret(), "kubernetes_client_configuration": secret()},
		},
		"talos_image_factory_schematic": {Tok: tfbridge.MakeResource(Name, "imageFactory", "Schematic")},
		"talos_machine_bootstrap":       {Tok: tfbridge.MakeResource(Name, "machine", "Bootstrap")},
		"talos_machine_configuration_apply": {
			Tok:    tfbridge.MakeResource(Name, "machine", "ConfigurationApply"),
			Fields: map[string]*tfbridge.SchemaInfo{"machine_configuration": secret()},
		},
		"talos_machine_secrets": {
			Tok:    tfbridge.MakeResource(Name, "machine", "Secrets"),
			Fields: map[string]*tfbridge.SchemaInfo{"machine_secrets": secret(), "client_configuration": secret()},
		},
	}
	// The kubeconfig's data source has the resource's name; a name cannot be ignored for one of the two only.
	dataSources := map[string]*tfbridge.DataSourceInfo{
		"talos_client_configuration":  {Tok: tfbridge.MakeDataSource(Name, "client", "getConfiguration")},
		"talos_cluster_kubeconfig":    {Tok: tfbridge.MakeDataSource(Name, "cluster", "getKubeconfig")},
		"talos_machine_configuration": {Tok: tfbridge.MakeDataSource(Name, "machine", "getConfiguration")},
	}
	info := tfbridge.ProviderInfo{
		P:            pf.ShimProvider(talos.New()),
		Name:         Name,
		DisplayName:  "Talos (the part that Cloudlab uses)",
		Version:      Version,
		MetadataInfo: tfbridge.NewProviderMetadata(Metadata),
		Resources:    resources,
		DataSources:  dataSources,
		Golang:       &tfbridge.GolangInfo{},
	}
	info.P.DataSourcesMap().Range(func(token string, _ shim.Resource) bool {
		if _, used := dataSources[token]; !used {
			info.IgnoreMappings = append(info.IgnoreMappings, token)
		}
		return true
	})
	info.SetAutonaming(255, "-")
	return info
}
