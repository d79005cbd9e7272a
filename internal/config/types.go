package config

import (
	"net/netip"
	"net/url"
)

// Cluster is one Talos Linux cluster on one Proxmox VE installation: complete, defaulted and valid.
// [Parse] is the only way to get one.
type Cluster struct {
	// Proxmox is where the machines live.
	Proxmox Proxmox
	// Name names the cluster in Talos, Kubernetes and kubeconfig contexts (a DNS label).
	Name string
	// Endpoint is the Kubernetes API as all nodes and clients reach it, e.g. https://192.0.2.10:6443.
	Endpoint *url.URL
	// VIP is the shared address of the control planes; invalid (zero) when there is none.
	VIP netip.Addr
	// TalosVersion and KubernetesVersion carry their leading v, e.g. v1.13.9.
	TalosVersion      string
	KubernetesVersion string
	// Image is what the machines boot and install.
	Image Image
	// InstallDisk is the system disk as the machine sees it, e.g. /dev/sda.
	InstallDisk string
	// Network holds what all nodes share.
	Network ClusterNetwork
	// Patches are extra Talos config patches (YAML, one or more documents) for every node, applied before a node's own.
	Patches []string
	// Protect guards what cannot be rebuilt (machine secrets, virtual machines) against deletion and replacement.
	Protect bool
	// Nodes is sorted: control planes first, then by name. The first entry bootstraps the cluster.
	Nodes []Node
}

// Proxmox describes access to a Proxmox VE installation and what the cluster uses of it.
type Proxmox struct {
	// Endpoint is the HTTPS address of the API, without a path, e.g. https://pve.example.com:8006.
	Endpoint *url.URL
	TLS      TLS
	// Datastores are the storages that hold each kind of volume.
	Datastores Datastores
	// Bridge, VLAN (0 = untagged) and MTU (0 = Proxmox' default, 1 = the bridge's own) attach the machines' network devices.
	Bridge string
	VLAN   int
	MTU    int
	// Pool is the Proxmox resource pool of the machines; empty for none.
	Pool string
	// Tags mark the machines, sorted and lower-case as Proxmox stores them.
	Tags []string
}

// TLS says how the Proxmox API's certificate is verified.
type TLS struct {
	// CAFile is a PEM file with the CA that signed the API's certificate; empty means the system's CAs.
	CAFile string
	// Insecure switches verification off.
	Insecure bool
}

// Datastores names Proxmox storages.
type Datastores struct {
	ISO, Disk, EFI, TPM string
}

// Image selects what the machines boot and install.
type Image struct {
	// Factory is the Talos Image Factory, e.g. https://factory.talos.dev.
	Factory *url.URL
	// Extensions are official system extensions by full name, e.g. siderolabs/qemu-guest-agent, sorted; empty when Schematic is given.
	Extensions []string
	// Schematic is a given schematic ID (64 hex digits); empty means that one is made of Extensions.
	Schematic string
	// Checksum verifies the ISO, as "sha256:<hex>" or "sha512:<hex>"; empty skips it.
	Checksum string
	// Eject takes the ISO out of the machines' CD-ROM drives; sensible once all of them are installed.
	Eject bool
}

// ClusterNetwork is what all nodes share.
type ClusterNetwork struct {
	Nameservers    []netip.Addr
	TimeServers    []string
	PodSubnets     []netip.Prefix
	ServiceSubnets []netip.Prefix
}

// Role is a node's part in the cluster.
type Role string

// The roles of a node.
const (
	ControlPlane Role = "controlplane"
	Worker       Role = "worker"
)

// Node is one virtual machine and the Talos node in it.
type Node struct {
	// Name is the host name (a DNS label), unique in the cluster.
	Name string
	Role Role
	// ProxmoxNode hosts the machine; VMID is its number there (100 to 999999999).
	ProxmoxNode string
	VMID        int
	// Address is the node's static address with its prefix; Gateway the default route.
	Address netip.Prefix
	Gateway netip.Addr
	// MAC is upper-case, as Proxmox stores it; always set (derived from the cluster name and VMID when not configured).
	MAC string
	// Cores counts virtual CPUs, CPUType is QEMU's CPU model, Memory is in MiB.
	Cores   int
	CPUType string
	Memory  int
	// Disk and DataDisk are in GiB; DataDisk 0 means no data disk and so no local storage volume.
	Disk     int
	DataDisk int
	Labels   map[string]string
	Taints   []Taint // sorted by key and effect
	// Patches are extra Talos config patches for this node only, applied last.
	Patches []string
	// TalosEndpoint is host:port of the Talos API for a node behind port forwarding; empty means Address on port 50000.
	TalosEndpoint string
}

// Taint keeps pods that do not tolerate it off a node.
type Taint struct {
	Key, Value, Effect string
}
