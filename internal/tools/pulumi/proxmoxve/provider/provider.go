// Package provider maps the part of the bpg Proxmox provider that Cloudlab uses to the tokens of pulumi-proxmoxve v6.
//
// It exists so that a machine without the official plugin release can build one from Go modules. Every other resource and
// data source is left out: the plugin starts faster and its schema stays small.
package provider

import (
	"context"
	_ "embed" // for the generated files

	"github.com/bpg/terraform-provider-proxmox/fwprovider"
	"github.com/bpg/terraform-provider-proxmox/proxmoxtf/provider"
	"github.com/hashicorp/terraform-plugin-sdk/v2/helper/schema"
	pf "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	shim "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim"
	shimv2 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v2"
)

// Name is the Pulumi package, Version the official release whose SDK the program imports.
const (
	Name    = "proxmoxve"
	Version = "6.18.1"
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
	const tf = "proxmox_virtual_environment_"
	resources := map[string]*tfbridge.ResourceInfo{
		tf + "download_file": {Tok: tfbridge.MakeResource(Name, "Download", "File")},
		tf + "vm":            {Tok: tfbridge.MakeResource(Name, "VM", "VirtualMachine")},
	}
	// bpg names this data source as the resource; a name cannot be ignored for one of the two only.
	dataSources := map[string]*tfbridge.DataSourceInfo{
		tf + "vm": {Tok: tfbridge.MakeDataSource(Name, "VM", "getVirtualMachine")},
	}
	upstream := provider.ProxmoxVirtualEnvironment()
	// Deprecated in v0.73, needed by the official plugin's v0.69: the program sets it, so the warning helps nobody.
	if cdrom, ok := upstream.ResourcesMap[tf+"vm"].Schema["cdrom"].Elem.(*schema.Resource); ok {
		cdrom.Schema["enabled"].Deprecated = ""
	}
	info := tfbridge.ProviderInfo{
		P: pf.MuxShimWithPF(context.Background(),
			shimv2.NewProvider(upstream), fwprovider.New(Version)()),
		Name:         "proxmox",
		DisplayName:  "Proxmox Virtual Environment (the part that Cloudlab uses)",
		Version:      Version,
		MetadataInfo: tfbridge.NewProviderMetadata(Metadata),
		Resources:    resources,
		DataSources:  dataSources,
		Golang:       &tfbridge.GolangInfo{},
	}
	info.P.ResourcesMap().Range(func(token string, _ shim.Resource) bool {
		if _, used := resources[token]; !used {
			info.IgnoreMappings = append(info.IgnoreMappings, token)
		}
		return true
	})
	info.P.DataSourcesMap().Range(func(token string, _ shim.Resource) bool {
		if _, used := dataSources[token]; !used {
			info.IgnoreMappings = append(info.IgnoreMappings, token)
		}
		return true
	})
	info.SetAutonaming(255, "-")
	return info
}
