package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultInstallDisk = "/dev/sda"
	apiPort            = "6443"
)

// cluster builds all but the Proxmox section.
func (c *checker) cluster(raw rawCluster, rawNodes map[string]rawNode) *Cluster {
	cluster := &Cluster{
		Name:        or(raw.Name, ""),
		Image:       c.image(raw.Image),
		InstallDisk: c.installDisk(raw.InstallDisk),
		Patches:     c.patches("cluster.patches", raw.Patches),
		Protect:     or(raw.Protect, true),
	}

	if raw.Name == nil {
		c.missing("cluster.name", "a cluster name", "write a DNS label such as cloudlab")
	} else if !isDNSLabel(cluster.Name) {
		c.reject("cluster.name", cluster.Name, "a cluster name (a DNS label: up to 63 lower-case letters, digits and dashes, no dash at either end)", write(toLabel(cluster.Name)))
	}

	cluster.TalosVersion, cluster.KubernetesVersion = c.versions(raw)

	cluster.Nodes = c.nodes(rawNodes, cluster.Name)
	cluster.Network = c.network(raw.Network, cluster.Nodes)

	if raw.VIP != nil {
		cluster.VIP = c.vip(*raw.VIP, cluster.Nodes)
	}

	c.unique(cluster.Nodes)
	cluster.Endpoint = c.endpoint(raw, cluster)

	if len(rawNodes) == 0 {
		c.missing("nodes", "at least one node", "add one under its name")
	} else if !c.isBad("nodes") {
		c.controlPlanes(cluster.Nodes, len(rawNodes))
	}

	return cluster
}

func (c *checker) installDisk(raw *string) string {
	const path = "cluster.installDisk"

	disk := or(raw, defaultInstallDisk)

	switch whole := wholeDisk(disk); {
	case !isDevice(disk):
		suggestion := ""
		if under := "/dev/" + strings.TrimPrefix(disk, "dev/"); !strings.HasPrefix(disk, "/") && isDevice(under) {
			suggestion = write(under)
		}

		c.reject(path, disk, "a disk under /dev/", suggestion)
	case whole != disk:
		c.reject(path, disk, "a whole disk", write(whole))
	}

	return disk
}

func isDevice(path string) bool {
	name, found := strings.CutPrefix(path, "/dev/")

	return found && each(name, "/", func(part string) bool { return spelt(part, maxName, alnum, alnum+"_.:+-") })
}

// wholeDisk takes the partition off a disk's name, such as /dev/sda1 or /dev/nvme0n1p1.
func wholeDisk(path string) string {
	whole := strings.TrimRight(path, "0123456789")

	switch {
	case whole == path:
	case strings.HasPrefix(path, "/dev/sd"), strings.HasPrefix(path, "/dev/vd"):
		return whole
	case strings.HasPrefix(path, "/dev/nvme") && strings.HasSuffix(whole, "p"):
		return strings.TrimSuffix(whole, "p")
	}

	return path
}

// vip checks the shared address, which a control plane announces in its own subnet.
func (c *checker) vip(raw string, nodes []Node) netip.Addr {
	const path = "cluster.vip"

	vip := c.unicast(path, raw)
	if !vip.IsValid() {
		return vip
	}

	for _, node := range nodes {
		switch {
		case vip == node.Address.Addr():
			c.reject(path, raw, "an address of its own", "node "+node.Name+" has it; write a free address of the same subnet")
		case vip == node.Gateway:
			c.reject(path, raw, "an address of its own", "it is the gateway of node "+node.Name+"; write a free address of the same subnet")
		case node.Role != ControlPlane || !node.Address.IsValid():
			continue
		case !node.Address.Contains(vip):
			c.reject(path, raw, "an address in the control planes' subnet "+node.Address.Masked().String(), "a control plane can only announce an address of its own subnet; write a free one there")
		case isReserved(node.Address, vip):
			c.reject(path, raw, "an address of a host", "it is the network or broadcast address of "+node.Address.Masked().String())
		default:
			continue
		}

		return netip.Addr{}
	}

	return vip
}

// endpoint is the given one, or the shared address', or the only control plane's.
func (c *checker) endpoint(raw rawCluster, cluster *Cluster) *url.URL {
	const path = "cluster.endpoint"

	planes := 0

	for _, node := range cluster.Nodes {
		if node.Role == ControlPlane {
			planes++
		}
	}

	switch {
	case raw.Endpoint != nil:
		endpoint := c.httpsURL(path, *raw.Endpoint, apiPort)
		if endpoint != nil {
			c.reachesControlPlanes(path, endpoint, planes, cluster.Nodes)
		}

		return endpoint
	case c.isBad(path):
		return nil
	case cluster.VIP.IsValid():
		return httpsOf(cluster.VIP)
	case planes > 1:
		c.missing("cluster.vip", "an address that the control planes share, because there is more than one", "write a free address of their subnet, or set cluster.endpoint to a load balancer")
	case planes == 1 && cluster.Nodes[0].Address.IsValid():
		return httpsOf(cluster.Nodes[0].Address.Addr())
	}

	return nil
}

// reachesControlPlanes refuses an endpoint that is the address of a worker, or of one control plane among several.
func (c *checker) reachesControlPlanes(path string, endpoint *url.URL, planes int, nodes []Node) {
	addr, err := netip.ParseAddr(endpoint.Hostname())
	if err != nil {
		return
	}

	for _, node := range nodes {
		switch {
		case node.Address.Addr() != addr:
		case node.Role == Worker:
			c.reject(path, endpoint.String(), "an address of the Kubernetes API", "node "+node.Name+" is a worker; write the control plane's address")
		case planes > 1:
			c.reject(path, endpoint.String(), "an address that survives the loss of node "+node.Name, "set cluster.vip to a free address and remove endpoint, or write a load balancer's address")
		}
	}
}

func httpsOf(addr netip.Addr) *url.URL {
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(addr.String(), apiPort)}
}

// unique checks what no two nodes may share. The later one by order is reported.
func (c *checker) unique(nodes []Node) {
	owners := map[string]string{}

	claim := func(node Node, key, value, quoted, expected string) {
		path := join(join("nodes", node.Name), key)
		if value == "" || c.isBad(path) {
			return
		}

		if owner, taken := owners[key+"="+value]; taken {
			c.add(Defect{Path: path, Value: quoted, Expected: expected, Suggestion: "node " + owner + " has the same"})

			return
		}

		owners[key+"="+value] = node.Name
	}

	sorted := slices.Clone(nodes)
	slices.SortFunc(sorted, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })

	for _, node := range sorted {
		if node.VMID != 0 {
			id := strconv.Itoa(node.VMID)
			claim(node, "vmId", id, id, "a VM ID of its own")
		}

		if node.Address.IsValid() {
			claim(node, "address", node.Address.Addr().String(), strconv.Quote(node.Address.String()), "an address of its own")
		}

		if !c.isBad(join(join("nodes", node.Name), "vmId")) {
			claim(node, "mac", node.MAC, strconv.Quote(node.MAC), "a MAC address of its own")
		}

		claim(node, "talosEndpoint", node.TalosEndpoint, strconv.Quote(node.TalosEndpoint), "an endpoint of its own")
	}

	c.gateways(sorted)
}

// gateways checks that no node is another's router.
func (c *checker) gateways(nodes []Node) {
	for _, node := range nodes {
		for _, other := range nodes {
			path := join(join("nodes", node.Name), "gateway")
			if other.Name != node.Name && node.Gateway.IsValid() && node.Gateway == other.Address.Addr() && !c.isBad(path) {
				c.reject(path, node.Gateway.String(), "a router's address", "node "+other.Name+" has it")
			}
		}
	}
}
