package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The defaults of Talos, by family.
const (
	defaultPods4     = "10.244.0.0/16"
	defaultServices4 = "10.96.0.0/12"
	defaultPods6     = "fc00:db8:10::/56"
	defaultServices6 = "fc00:db8:20::/112"
	defaultTime      = "time.cloudflare.com"
)

// family bounds the subnets of an address family.
type family struct {
	name string
	// nodeBits is the share of the pod subnet that each node gets; serviceBits the least prefix the API server takes.
	nodeBits, serviceBits int
}

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return family{name: "IPv4", nodeBits: 24, serviceBits: 12}
	}

	return family{name: "IPv6", nodeBits: 64, serviceBits: 108}
}

// network checks what all nodes share. The defaults follow the first node's address family.
func (c *checker) network(raw rawNetwork, nodes []Node) ClusterNetwork {
	nameservers, pods, services := []string{"1.1.1.1", "9.9.9.9"}, []string{defaultPods4}, []string{defaultServices4}

	if i := slices.IndexFunc(nodes, func(n Node) bool { return n.Address.IsValid() }); i >= 0 && nodes[i].Address.Addr().Is6() {
		nameservers, pods, services = []string{"2606:4700:4700::1111", "2620:fe::9"}, []string{defaultPods6}, []string{defaultServices6}
	}

	n := ClusterNetwork{
		Nameservers:    c.nameservers("cluster.network.nameservers", orList(raw.Nameservers, nameservers)),
		TimeServers:    c.timeServers("cluster.network.timeServers", orList(raw.TimeServers, []string{defaultTime})),
		PodSubnets:     c.subnets("cluster.network.podSubnets", orList(raw.PodSubnets, pods)),
		ServiceSubnets: c.subnets("cluster.network.serviceSubnets", orList(raw.ServiceSubnets, services)),
	}

	c.sizes(n)
	c.families(n, nodes)
	c.overlaps(n, nodes)

	return n
}

func orList(configured, byDefault []string) []string {
	if configured == nil {
		return byDefault
	}

	return configured
}

func (c *checker) nameservers(path string, raw []string) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(raw))

	for i, value := range raw {
		item := index(path, i)
		if c.isBad(item) {
			continue
		}

		addr := c.unicast(item, value)
		if addr.IsValid() && slices.Contains(addrs, addr) {
			c.reject(item, value, "given once", "remove it")
		}

		addrs = append(addrs, addr)
	}

	c.notEmpty(path, raw, "at least one DNS server")

	return addrs
}

func (c *checker) timeServers(path string, raw []string) []string {
	for i, value := range raw {
		item := index(path, i)

		switch {
		case c.isBad(item):
		case !isHost(value):
			suggestion := ""
			if _, host, found := strings.Cut(value, "://"); found && isHost(strings.TrimSuffix(host, "/")) {
				suggestion = write(strings.TrimSuffix(host, "/"))
			}

			c.reject(item, value, "the name or address of a time server", suggestion)
		case slices.Contains(raw[:i], value):
			c.reject(item, value, "given once", "remove it")
		}
	}

	c.notEmpty(path, raw, "at least one time server")

	return raw
}

func (c *checker) notEmpty(path string, raw []string, expected string) {
	if len(raw) == 0 && !c.isBad(path) {
		c.add(Defect{Path: path, Value: "[]", Expected: "a list of " + expected, Suggestion: "remove the key for the default"})
	}
}

// subnets checks their form. A bad one becomes an invalid prefix and keeps its place.
func (c *checker) subnets(path string, raw []string) []netip.Prefix {
	prefixes := make([]netip.Prefix, len(raw))

	for i, value := range raw {
		item := index(path, i)
		if c.isBad(item) {
			continue
		}

		prefix, err := netip.ParsePrefix(value)

		switch {
		case err != nil || prefix.Addr().Is4In6():
			c.reject(item, value, "a subnet such as "+defaultPods4, "")
		case prefix != prefix.Masked():
			c.reject(item, value, "the first address of its subnet", write(prefix.Masked().String()))
		case i > 1:
			c.reject(item, value, "one of at most two subnets, one for each address family", "remove it")
		case i == 1 && prefixes[0].IsValid() && prefixes[0].Addr().Is4() == prefix.Addr().Is4():
			c.reject(item, value, "a subnet of the other address family", "the first is "+familyOf(prefix.Addr()).name+" already; remove one")
		default:
			prefixes[i] = prefix
		}
	}

	c.notEmpty(path, raw, "at least one subnet")

	return prefixes
}

// sizes checks what Kubernetes asks of the subnets' lengths.
func (c *checker) sizes(n ClusterNetwork) {
	for i, prefix := range n.PodSubnets {
		if f := familyOf(prefix.Addr()); prefix.IsValid() && prefix.Bits() > f.nodeBits {
			c.reject(index("cluster.network.podSubnets", i), prefix.String(), fmt.Sprintf("large enough for a /%d for each node", f.nodeBits), "write a shorter prefix")
		}
	}

	for i, prefix := range n.ServiceSubnets {
		if f := familyOf(prefix.Addr()); prefix.IsValid() && prefix.Bits() < f.serviceBits {
			c.reject(index("cluster.network.serviceSubnets", i), prefix.String(), fmt.Sprintf("as small as the API server asks (/%d or longer)", f.serviceBits), "write a longer prefix")
		}
	}
}

// families checks that pods and services have the same address families, and that the first one is the nodes'.
func (c *checker) families(n ClusterNetwork, nodes []Node) {
	const pods, services = "cluster.network.podSubnets", "cluster.network.serviceSubnets"

	valid := func(p netip.Prefix) bool { return p.IsValid() }
	if len(n.PodSubnets) == 0 || len(n.ServiceSubnets) == 0 || !all(n.PodSubnets, valid) || !all(n.ServiceSubnets, valid) {
		return
	}

	names := func(prefixes []netip.Prefix) string {
		list := make([]string, len(prefixes))
		for i, p := range prefixes {
			list[i] = familyOf(p.Addr()).name
		}

		return strings.Join(list, ", ")
	}

	if got, want := names(n.ServiceSubnets), names(n.PodSubnets); got != want && !c.isBad(services) && !c.isBad(pods) {
		c.add(Defect{Path: services, Value: "[" + got + "]", Expected: "a list of the same address families as podSubnets [" + want + "]", Suggestion: "give both in the same order"})

		return
	}

	for _, node := range nodes {
		if node.Address.IsValid() && node.Address.Addr().Is4() != n.PodSubnets[0].Addr().Is4() {
			c.reject(index(pods, 0), n.PodSubnets[0].String(), "of the nodes' address family "+familyOf(node.Address.Addr()).name, "the API server runs with the first family, which node "+node.Name+" lacks")

			return
		}
	}
}

func all[T any](list []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !ok(v) })
}

// overlaps checks that no address can mean two things.
func (c *checker) overlaps(n ClusterNetwork, nodes []Node) {
	type subnet struct {
		name   string
		prefix netip.Prefix
	}

	var used []subnet

	check := func(path string, prefix netip.Prefix) {
		i := slices.IndexFunc(used, func(u subnet) bool { return prefix.IsValid() && u.prefix.Overlaps(prefix) })
		if i >= 0 && !c.isBad(path) {
			c.reject(path, prefix.String(), "apart from "+used[i].name+" "+used[i].prefix.String(), "write a subnet that nothing else uses")
		}
	}

	for _, node := range nodes {
		if node.Address.IsValid() {
			used = append(used, subnet{"the nodes' subnet", node.Address.Masked()})
		}
	}

	for i, prefix := range n.PodSubnets {
		check(index("cluster.network.podSubnets", i), prefix)
	}

	for i, prefix := range n.PodSubnets {
		if prefix.IsValid() {
			used = append(used, subnet{fmt.Sprintf("podSubnets[%d]", i), prefix})
		}
	}

	for i, prefix := range n.ServiceSubnets {
		check(index("cluster.network.serviceSubnets", i), prefix)
	}
}
