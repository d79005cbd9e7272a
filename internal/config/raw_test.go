package config

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"testing"
)

// sectionsOf writes a cluster back as its complete configuration.
func sectionsOf(t testing.TB, c *Cluster) Sections {
	t.Helper()

	nodes := map[string]rawNode{}
	for _, n := range c.Nodes {
		nodes[n.Name] = rawNodeOf(n)
	}

	return Sections{Proxmox: marshal(t, rawProxmoxOf(c.Proxmox)), Cluster: marshal(t, rawClusterOf(c)), Nodes: marshal(t, nodes)}
}

func marshal(t testing.TB, v any) json.RawMessage {
	t.Helper()

	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}

	return raw
}

// optional is nil for a zero value, which stands for an absent key.
func optional[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}

	return &v
}

func stringsOf[T interface{ String() string }](list []T) []string {
	written := make([]string, len(list))
	for i, v := range list {
		written[i] = v.String()
	}

	return written
}

func urlOf(u *url.URL) *string {
	return new(u.String())
}

func addrOf(a netip.Addr) *string {
	if !a.IsValid() {
		return nil
	}

	return new(a.String())
}

func rawProxmoxOf(p Proxmox) rawProxmox {
	return rawProxmox{
		Endpoint:   urlOf(p.Endpoint),
		TLS:        rawTLS{CAFile: optional(p.TLS.CAFile), Insecure: &p.TLS.Insecure},
		Datastores: rawDatastores{ISO: &p.Datastores.ISO, Disk: &p.Datastores.Disk, EFI: &p.Datastores.EFI, TPM: &p.Datastores.TPM},
		Network:    rawAttachment{Bridge: &p.Bridge, VLAN: optional(p.VLAN), MTU: optional(p.MTU)},
		Pool:       optional(p.Pool),
		Tags:       p.Tags,
	}
}

func rawClusterOf(c *Cluster) rawCluster {
	return rawCluster{
		Name: &c.Name, Endpoint: urlOf(c.Endpoint), VIP: addrOf(c.VIP),
		TalosVersion: &c.TalosVersion, KubernetesVersion: &c.KubernetesVersion,
		Image: rawImage{
			Factory: urlOf(c.Image.Factory), Extensions: c.Image.Extensions,
			Schematic: optional(c.Image.Schematic), Checksum: optional(c.Image.Checksum), Eject: &c.Image.Eject,
		},
		InstallDisk: &c.InstallDisk,
		Network: rawNetwork{
			Nameservers: stringsOf(c.Network.Nameservers), TimeServers: c.Network.TimeServers,
			PodSubnets: stringsOf(c.Network.PodSubnets), ServiceSubnets: stringsOf(c.Network.ServiceSubnets),
		},
		Patches: c.Patches, Protect: &c.Protect,
	}
}

func rawNodeOf(n Node) rawNode {
	raw := rawNode{
		Role: new(string(n.Role)), ProxmoxNode: &n.ProxmoxNode, VMID: &n.VMID,
		Address: new(n.Address.String()), Gateway: addrOf(n.Gateway), MAC: &n.MAC,
		CPU: rawCPU{Cores: &n.Cores, Type: &n.CPUType}, Memory: &n.Memory, Disk: &n.Disk, DataDisk: &n.DataDisk,
		Labels: n.Labels, Patches: n.Patches, TalosEndpoint: optional(n.TalosEndpoint),
	}

	for _, taint := range n.Taints {
		raw.Taints = append(raw.Taints, rawTaint{Key: &taint.Key, Value: &taint.Value, Effect: &taint.Effect})
	}

	return raw
}
