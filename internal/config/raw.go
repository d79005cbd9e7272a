package config

// The raw types are the configuration as written. Pointers, nil slices and nil maps tell absent from empty.
// Their json tags are the complete list of keys; docs/configuration.md explains each.

type rawProxmox struct {
	Endpoint   *string       `json:"endpoint,omitempty"`
	TLS        rawTLS        `json:"tls,omitzero"`
	Datastores rawDatastores `json:"datastores,omitzero"`
	Network    rawAttachment `json:"network,omitzero"`
	Pool       *string       `json:"pool,omitempty"`
	Tags       []string      `json:"tags,omitzero"`
}

type rawTLS struct {
	CAFile   *string `json:"caFile,omitempty"`
	Insecure *bool   `json:"insecure,omitempty"`
}

type rawDatastores struct {
	ISO  *string `json:"iso,omitempty"`
	Disk *string `json:"disk,omitempty"`
	EFI  *string `json:"efi,omitempty"`
	TPM  *string `json:"tpm,omitempty"`
}

type rawAttachment struct {
	Bridge *string `json:"bridge,omitempty"`
	VLAN   *int    `json:"vlan,omitempty"`
	MTU    *int    `json:"mtu,omitempty"`
}

type rawCluster struct {
	Name              *string    `json:"name,omitempty"`
	Endpoint          *string    `json:"endpoint,omitempty"`
	VIP               *string    `json:"vip,omitempty"`
	TalosVersion      *string    `json:"talosVersion,omitempty"`
	KubernetesVersion *string    `json:"kubernetesVersion,omitempty"`
	Image             rawImage   `json:"image,omitzero"`
	InstallDisk       *string    `json:"installDisk,omitempty"`
	Network           rawNetwork `json:"network,omitzero"`
	Patches           []string   `json:"patches,omitzero"`
	Protect           *bool      `json:"protect,omitempty"`
}

type rawImage struct {
	Factory    *string  `json:"factory,omitempty"`
	Extensions []string `json:"extensions,omitzero"`
	Schematic  *string  `json:"schematic,omitempty"`
	Checksum   *string  `json:"checksum,omitempty"`
	Eject      *bool    `json:"eject,omitempty"`
}

type rawNetwork struct {
	Nameservers    []string `json:"nameservers,omitzero"`
	TimeServers    []string `json:"timeServers,omitzero"`
	PodSubnets     []string `json:"podSubnets,omitzero"`
	ServiceSubnets []string `json:"serviceSubnets,omitzero"`
}

type rawNode struct {
	Role          *string           `json:"role,omitempty"`
	ProxmoxNode   *string           `json:"proxmoxNode,omitempty"`
	VMID          *int              `json:"vmId,omitempty"`
	Address       *string           `json:"address,omitempty"`
	Gateway       *string           `json:"gateway,omitempty"`
	MAC           *string           `json:"mac,omitempty"`
	CPU           rawCPU            `json:"cpu,omitzero"`
	Memory        *int              `json:"memory,omitempty"`
	Disk          *int              `json:"disk,omitempty"`
	DataDisk      *int              `json:"dataDisk,omitempty"`
	Labels        map[string]string `json:"labels,omitzero"`
	Taints        []rawTaint        `json:"taints,omitzero"`
	Patches       []string          `json:"patches,omitzero"`
	TalosEndpoint *string           `json:"talosEndpoint,omitempty"`
}

type rawCPU struct {
	Cores *int    `json:"cores,omitempty"`
	Type  *string `json:"type,omitempty"`
}

type rawTaint struct {
	Key    *string `json:"key,omitempty"`
	Value  *string `json:"value,omitempty"`
	Effect *string `json:"effect,omitempty"`
}
