package talos

import (
	"embed"
	"fmt"
	"net/netip"
	"strings"

	"sigs.k8s.io/yaml"

	"cloudlab/internal/config"
)

//go:embed patches/*.yaml
var fixed embed.FS

// Patch is one intention laid over the machine config that Talos generates.
type Patch struct {
	// Name says the intention, e.g. "encryption" or "address".
	Name string
	// YAML is a strategic merge patch: one or more documents.
	YAML string
}

// Patches lists what makes a node's config, in the order of application: what all nodes share, what the role adds, what the node is,
// then the operator's own. installer is the image that Talos installs itself from.
func Patches(cluster *config.Cluster, node config.Node, installer string) ([]Patch, error) {
	var patches []Patch
	add := func(name string, value any) error {
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("node %q: patch %s: %w", node.Name, name, err)
		}
		patches = append(patches, Patch{Name: name, YAML: string(text)})
		return nil
	}
	addFixed := func(names ...string) error {
		for _, name := range names {
			text, err := fixed.ReadFile("patches/" + name + ".yaml")
			if err != nil {
				return fmt.Errorf("node %q: patch %s: %w", node.Name, name, err)
			}
			patches = append(patches, Patch{Name: name, YAML: string(text)})
		}
		return nil
	}

	if err := addFixed("encryption", "cni", "kubeprism", "kubelet", "spegel"); err != nil {
		return nil, err
	}
	if node.Role == config.ControlPlane {
		if err := addFixed("metrics", "talos-api-access"); err != nil {
			return nil, err
		}
	}
	if node.DataDisk > 0 {
		if err := addFixed("local-storage"); err != nil {
			return nil, err
		}
	}
	for _, patch := range []struct {
		name  string
		value any
	}{
		{"install", install(cluster, installer)},
		{"hostname", hostname(node)},
		{"address", address(cluster, node)},
		{"subnets", subnets(cluster)},
		{"identity", identity(cluster, node)},
		{"control-plane", controlPlane(cluster, node)},
		{"scheduling", scheduling(cluster, node)},
	} {
		if patch.value == nil {
			continue
		}
		if err := add(patch.name, patch.value); err != nil {
			return nil, err
		}
	}
	for i, text := range cluster.Patches {
		patches = append(patches, Patch{Name: fmt.Sprintf("cluster.patches[%d]", i), YAML: text})
	}
	for i, text := range node.Patches {
		patches = append(patches, Patch{Name: fmt.Sprintf("nodes.%s.patches[%d]", node.Name, i), YAML: text})
	}
	return patches, nil
}

type object map[string]any

func install(cluster *config.Cluster, installer string) any {
	return object{"machine": object{"install": object{"disk": cluster.InstallDisk, "image": installer, "wipe": false}}}
}

// hostname replaces the generated document's "auto: stable", which excludes a static name.
func hostname(node config.Node) any {
	return object{"apiVersion": "v1alpha1", "kind": "HostnameConfig", "auto": "off", "hostname": node.Name}
}

func address(cluster *config.Cluster, node config.Node) any {
	device := object{
		"deviceSelector": object{"hardwareAddr": strings.ToLower(node.MAC)},
		"addresses":      []string{node.Address.String()},
		"routes":         []object{{"network": anywhere(node.Gateway), "gateway": node.Gateway.String()}},
		"dhcp":           false,
	}
	if cluster.Proxmox.MTU > 1 {
		device["mtu"] = cluster.Proxmox.MTU
	}
	if cluster.VIP.IsValid() && node.Role == config.ControlPlane {
		device["vip"] = object{"ip": cluster.VIP.String()}
	}
	network := object{"interfaces": []object{device}}
	if servers := cluster.Network.Nameservers; len(servers) > 0 {
		network["nameservers"] = texts(servers)
	}
	machine := object{"network": network}
	if servers := cluster.Network.TimeServers; len(servers) > 0 {
		machine["time"] = object{"servers": servers}
	}
	return object{"machine": machine}
}

func anywhere(gateway netip.Addr) string {
	if gateway.Is6() {
		return "::/0"
	}
	return "0.0.0.0/0"
}

func subnets(cluster *config.Cluster) any {
	return object{"cluster": object{"network": object{
		"podSubnets": texts(cluster.Network.PodSubnets), "serviceSubnets": texts(cluster.Network.ServiceSubnets),
	}}}
}

// identity is what the node tells Kubernetes, and the names its Talos API answers to.
func identity(cluster *config.Cluster, node config.Node) any {
	subnet := node.Address.Masked().String()
	kubelet := object{"nodeIP": object{"validSubnets": []string{subnet}}}
	machine := object{"certSANs": sans(cluster, node), "kubelet": kubelet}
	if len(node.Labels) > 0 {
		machine["nodeLabels"] = node.Labels
	}
	kept, registered := taints(node)
	if len(kept) > 0 {
		machine["nodeTaints"] = kept
	}
	if len(registered) > 0 {
		kubelet["extraConfig"] = object{"registerWithTaints": registered}
	}
	return object{"machine": machine}
}

// taints splits a node's taints into those that Talos keeps on the Node object and those that the kubelet registers the node with.
//
// Talos writes nodeTaints with the kubelet's own credentials on a worker. The NodeRestriction admission plugin forbids a kubelet to
// change its taints, and refuses the labels of the same request with them. So a worker's taints are part of its registration: a
// later change needs `kubectl taint`, or a node that registers anew. nodeTaints also holds one effect per key only.
func taints(node config.Node) (kept map[string]string, registered []object) {
	effects := map[string]int{}
	for _, taint := range node.Taints {
		effects[taint.Key]++
	}
	kept = map[string]string{}
	for _, taint := range node.Taints {
		if node.Role == config.ControlPlane && effects[taint.Key] == 1 {
			kept[taint.Key] = strings.TrimPrefix(taint.Value+":"+taint.Effect, ":")
			continue
		}
		entry := object{"key": taint.Key, "effect": taint.Effect}
		if taint.Value != "" {
			entry["value"] = taint.Value
		}
		registered = append(registered, entry)
	}
	return kept, registered
}

func sans(cluster *config.Cluster, node config.Node) []string {
	names := []string{node.Address.Addr().String()}
	if node.Role == config.ControlPlane && cluster.VIP.IsValid() {
		names = append(names, cluster.VIP.String())
	}
	if host, ok := hostOf(node.TalosEndpoint); ok {
		names = append(names, host)
	}
	return names
}

func controlPlane(cluster *config.Cluster, node config.Node) any {
	if node.Role != config.ControlPlane {
		return nil
	}
	names := []string{cluster.Endpoint.Hostname(), node.Address.Addr().String()}
	if vip := cluster.VIP; vip.IsValid() && vip.String() != names[0] {
		names = append(names, vip.String())
	}
	if names[0] == names[1] {
		names = names[1:]
	}
	return object{"cluster": object{
		"apiServer": object{"certSANs": names},
		"etcd":      object{"advertisedSubnets": []string{node.Address.Masked().String()}},
	}}
}

// scheduling lets pods onto the control planes of a cluster that has nothing else.
func scheduling(cluster *config.Cluster, node config.Node) any {
	if node.Role != config.ControlPlane {
		return nil
	}
	workers := false
	for _, other := range cluster.Nodes {
		workers = workers || other.Role == config.Worker
	}
	return object{"cluster": object{"allowSchedulingOnControlPlanes": !workers}}
}

func texts[T fmt.Stringer](values []T) []string {
	all := make([]string, len(values))
	for i, value := range values {
		all[i] = value.String()
	}
	return all
}
