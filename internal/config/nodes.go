package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultCores    = 4
	defaultMemory   = 8192 // MiB
	defaultDisk     = 50   // GiB
	defaultDataDisk = 100  // GiB

	minControlPlaneMemory = 2048      // MiB, Talos' requirement
	minWorkerMemory       = 1024      // MiB, Talos' requirement
	maxMemory             = 268435456 // MiB, the Proxmox provider's limit
	maxCores              = 2304      // the Proxmox provider's limit
	minDisk               = 10        // GiB, Talos' requirement
	maxDisk               = 131072    // GiB
	minVMID               = 100
	maxVMID               = 999999999
)

// nodes builds all nodes in their final order.
func (c *checker) nodes(raw map[string]rawNode, cluster string) []Node {
	nodes := make([]Node, 0, len(raw))

	for _, name := range slices.Sorted(maps.Keys(raw)) {
		path := join("nodes", name)
		if c.isBad(path) {
			continue
		}

		if !isDNSLabel(name) {
			c.reject(path, name, "a node name (a DNS label: up to 63 lower-case letters, digits and dashes, no dash at either end)", write(toLabel(name)))
		}

		nodes = append(nodes, c.node(path, name, cluster, raw[name], len(raw) == 1))
	}

	slices.SortStableFunc(nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a.Role), rank(b.Role)), cmp.Compare(a.Name, b.Name))
	})

	return nodes
}

func rank(role Role) int {
	if role == ControlPlane {
		return 0
	}

	return 1
}

func (c *checker) node(path, name, cluster string, raw rawNode, only bool) Node {
	const proxmoxNode = "the name of a Proxmox node (letters, digits and dashes, no dash at either end)"

	node := Node{
		Name:        name,
		Role:        c.role(join(path, "role"), raw.Role, only),
		ProxmoxNode: c.name(join(path, "proxmoxNode"), raw.ProxmoxNode, isPVENode, proxmoxNode, defaultProxmoxNode),
		Cores:       c.number(path+".cpu.cores", raw.CPU.Cores, 1, maxCores, defaultCores, "of cores ", ""),
		CPUType:     c.cpuType(path+".cpu.type", raw.CPU.Type),
		Disk:        c.number(join(path, "disk"), raw.Disk, minDisk, maxDisk, defaultDisk, "of GiB ", ""),
		DataDisk:    c.number(join(path, "dataDisk"), raw.DataDisk, 0, maxDisk, defaultDataDisk, "of GiB ", "0 means no data disk"),
	}

	if raw.VMID == nil {
		c.missing(join(path, "vmId"), "a number that no other machine of Proxmox has", "write one from "+strconv.Itoa(minVMID)+" on")
	}

	node.VMID = c.number(join(path, "vmId"), raw.VMID, minVMID, maxVMID, 0, "", "")
	node.Memory = c.memory(join(path, "memory"), raw.Memory, node.Role)
	node.Address, node.Gateway = c.addressing(path, raw)
	node.MAC = c.mac(join(path, "mac"), raw.MAC, cluster, node.VMID)
	node.Labels = c.labels(join(path, "labels"), raw.Labels, node.Role)
	node.Taints = c.taints(join(path, "taints"), raw.Taints)
	node.Patches = c.patches(join(path, "patches"), raw.Patches)
	node.TalosEndpoint = c.talosEndpoint(join(path, "talosEndpoint"), raw.TalosEndpoint)

	return node
}

func (c *checker) role(path string, raw *string, only bool) Role {
	roles := []string{string(ControlPlane), string(Worker)}

	switch {
	case raw == nil && only:
		return ControlPlane
	case raw == nil:
		c.missing(path, "a role, because there is more than one node", choose("", roles))
		c.excuse(path)

		return ""
	case !slices.Contains(roles, *raw):
		c.reject(path, *raw, "a role", choose(*raw, roles))

		return ""
	default:
		return Role(*raw)
	}
}

func (c *checker) memory(path string, raw *int, role Role) int {
	memory := or(raw, defaultMemory)

	least, who := minWorkerMemory, "a node"

	switch role {
	case ControlPlane:
		least, who = minControlPlaneMemory, "a control plane"
	case Worker:
		who = "a worker"
	}

	if raw == nil || memory >= least && memory <= maxMemory {
		return memory
	}

	suggestion := "Talos needs at least " + strconv.Itoa(least)
	if memory > 0 && memory <= 512 {
		suggestion = "the unit is MiB, write " + strconv.Itoa(memory*1024)
	}

	c.rejectInt(path, memory, fmt.Sprintf("a number of MiB from %d to %d for %s", least, maxMemory, who), suggestion)

	return memory
}

// addressing checks a node's address and gateway by themselves and against each other.
func (c *checker) addressing(path string, raw rawNode) (netip.Prefix, netip.Addr) {
	addressPath, gatewayPath := join(path, "address"), join(path, "gateway")

	var (
		address netip.Prefix
		gateway netip.Addr
	)

	if raw.Address == nil {
		c.missing(addressPath, "an address with a prefix", "write the node's static address, such as 192.0.2.11/24")
	} else {
		address = c.nodeAddress(addressPath, *raw.Address)
	}

	if raw.Gateway == nil {
		c.missing(gatewayPath, "an address", "write the default route's, such as 192.0.2.1")
	} else {
		gateway = c.unicast(gatewayPath, *raw.Gateway)
	}

	if !address.IsValid() || !gateway.IsValid() {
		return address, gateway
	}

	switch {
	case gateway == address.Addr():
		c.reject(gatewayPath, gateway.String(), "an address other than the node's own", "write the router's address")
	case !address.Contains(gateway):
		c.reject(gatewayPath, gateway.String(), "an address in the node's subnet "+address.Masked().String(), "")
	case isReserved(address, gateway):
		c.reject(gatewayPath, gateway.String(), "an address of a host in "+address.Masked().String(), "it is the subnet's network or broadcast address")
	}

	return address, gateway
}

func (c *checker) nodeAddress(path, raw string) netip.Prefix {
	const expected = "an address with a prefix"

	prefix, err := netip.ParsePrefix(raw)
	if err != nil {
		suggestion := ""

		if addr, err := netip.ParseAddr(raw); err == nil && addr.Zone() == "" && !addr.Is4In6() {
			bits := 24
			if addr.Is6() {
				bits = 64
			}

			suggestion = write(netip.PrefixFrom(addr, bits).String())
		}

		c.reject(path, raw, expected, suggestion)

		return netip.Prefix{}
	}

	least, most := 8, 30
	if prefix.Addr().Is6() {
		least, most = 32, 126
	}

	switch {
	case prefix.Addr().Is4In6(), !prefix.Addr().IsGlobalUnicast():
		c.reject(path, raw, "a unicast address that other hosts can reach", "")
	case prefix.Bits() < least || prefix.Bits() > most:
		c.reject(path, raw, fmt.Sprintf("an address in a subnet from /%d to /%d", least, most), "write the prefix length of the network, not of one address")
	case isReserved(prefix, prefix.Addr()):
		c.reject(path, raw, "an address of a host", "it is the network or broadcast address of "+prefix.Masked().String())
	default:
		return prefix
	}

	return netip.Prefix{}
}

// unicast checks a plain address.
func (c *checker) unicast(path, raw string) netip.Addr {
	addr, err := netip.ParseAddr(raw)
	if err != nil {
		suggestion := ""
		if prefix, err := netip.ParsePrefix(raw); err == nil {
			suggestion = write(prefix.Addr().String())
		}

		c.reject(path, raw, "an address", suggestion)

		return netip.Addr{}
	}

	if addr.Is4In6() || addr.Zone() != "" || !addr.IsGlobalUnicast() {
		c.reject(path, raw, "a unicast address that other hosts can reach", "")

		return netip.Addr{}
	}

	return addr
}

// isReserved tells whether an address of a subnet stands for the subnet itself or for all of it.
func isReserved(subnet netip.Prefix, addr netip.Addr) bool {
	return addr == subnet.Masked().Addr() || addr.Is4() && addr == last(subnet)
}

// last is the highest address of a subnet.
func last(subnet netip.Prefix) netip.Addr {
	bytes := subnet.Masked().Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}

	addr, _ := netip.AddrFromSlice(bytes)

	return addr
}

func (c *checker) mac(path string, raw *string, cluster string, vmID int) string {
	if raw == nil {
		return deriveMAC(cluster, vmID)
	}

	mac, err := net.ParseMAC(*raw)

	switch {
	case err != nil || len(mac) != 6:
		c.reject(path, *raw, "a MAC address such as BC:24:11:00:00:01", "")
	case mac[0]&1 != 0:
		c.reject(path, *raw, "a unicast MAC address", "its first byte must be even; remove the key to have one derived")
	case mac.String() == "00:00:00:00:00:00":
		c.reject(path, *raw, "a MAC address a machine can have", "remove the key to have one derived")
	default:
		return strings.ToUpper(mac.String())
	}

	return ""
}

// deriveMAC makes an address in Proxmox' own range that stays the same for a machine of a cluster.
func deriveMAC(cluster string, vmID int) string {
	sum := sha256.Sum256([]byte(cluster + "/" + strconv.Itoa(vmID)))

	return fmt.Sprintf("BC:24:11:%02X:%02X:%02X", sum[0], sum[1], sum[2])
}

func (c *checker) talosEndpoint(path string, raw *string) string {
	const expected = "host:port of a forwarded Talos API"

	if raw == nil || hostPort(*raw) {
		return or(raw, "")
	}

	suggestion := ""

	_, bare, found := strings.Cut(*raw, "://")
	if !found {
		bare = *raw
	}

	bare = strings.TrimSuffix(bare, "/")
	if isHost(bare) {
		bare = net.JoinHostPort(bare, "50000")
	}

	if hostPort(bare) {
		suggestion = write(bare)
	}

	c.reject(path, *raw, expected, suggestion)

	return *raw
}
