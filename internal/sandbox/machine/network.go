package machine

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/ryanuber/go-glob"
	networkpb "github.com/siderolabs/talos/pkg/machinery/api/resource/definitions/network"
	"github.com/siderolabs/talos/pkg/machinery/cel/celenv"
	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/proto"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"

	"cloudlab/internal/sandbox/pve"
)

// link is a network interface as the machine sees it.
type link struct {
	index     uint32
	name      string
	mac       net.HardwareAddr
	bus       string
	addresses []netip.Prefix
}

// Facts of QEMU's virtio network device, for device selectors.
const (
	linkDriver = "virtio_net"
	linkPCIID  = "1AF4:1000"
)

// links names the machine's network devices as Linux does on q35 (netN sits behind a bridge in slot 18+N).
func links(nics []pve.NIC) ([]link, error) {
	found := make([]link, 0, len(nics))
	for i, nic := range nics {
		mac, err := net.ParseMAC(nic.MAC)
		if err != nil {
			return nil, fmt.Errorf("network device %d: %w", i, err)
		}
		found = append(found, link{
			index: uint32(i + 2), name: fmt.Sprintf("enp6s%d", 18+i), mac: mac, bus: fmt.Sprintf("0000:06:%02x.0", 18+i),
		})
	}
	return found, nil
}

// linkLocal is the address that the kernel derives from the MAC (EUI-64).
func (l link) linkLocal() netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: l.mac[0] ^ 2, 9: l.mac[1], 10: l.mac[2], 11: 0xff, 12: 0xfe, 13: l.mac[3], 14: l.mac[4], 15: l.mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// addressing is the network configuration that results from leases and the machine configuration.
type addressing struct {
	links []link
	// vips are the shared addresses that the machine competes for.
	vips []netip.Addr
	// problems are settings that take no effect.
	problems []string
}

// address configures the links. cfg may be nil: then every link asks for a lease.
func address(nics []pve.NIC, cfg config.Config, lease func(mac string) (netip.Prefix, error)) addressing {
	found, err := links(nics)
	a := addressing{links: found}
	if err != nil {
		a.problems = append(a.problems, err.Error())
	}
	wantLease := make([]bool, len(a.links))
	for i := range wantLease {
		wantLease[i] = cfg == nil || cfg.RunDefaultDHCPOperators()
	}
	if cfg != nil {
		if cfg.Machine() != nil {
			a.devices(cfg.Machine().Network().Devices(), wantLease)
		}
		a.documents(cfg, wantLease)
	}
	for i := range a.links {
		if !wantLease[i] {
			continue
		}
		p, err := lease(a.links[i].mac.String())
		if err != nil {
			a.problems = append(a.problems, err.Error())
			continue
		}
		a.add(i, p)
	}
	return a
}

func (a *addressing) add(link int, p netip.Prefix) {
	if !slices.Contains(a.links[link].addresses, p) {
		a.links[link].addresses = append(a.links[link].addresses, p)
	}
}

// devices applies machine.network.interfaces.
func (a *addressing) devices(devices []config.Device, wantLease []bool) {
	for _, d := range devices {
		matched := false
		for i, l := range a.links {
			if !deviceMatches(d, l) {
				continue
			}
			matched = true
			wantLease[i] = false
			if d.Ignore() {
				continue
			}
			wantLease[i] = d.DHCP() && d.DHCPOptions().IPv4()
			for _, text := range d.Addresses() {
				p, err := parseAddress(text)
				if err != nil {
					a.problems = append(a.problems, fmt.Sprintf("address %q on interface %q: %v", text, l.name, err))
					continue
				}
				a.add(i, p)
			}
			if d.VIPConfig() != nil {
				a.vip(d.VIPConfig().IP())
			}
		}
		if !matched {
			a.problems = append(a.problems, "machine.network.interfaces: "+describeDevice(d)+" matches no network device")
		}
	}
}

func (a *addressing) vip(text string) {
	if ip, err := netip.ParseAddr(text); err == nil {
		a.vips = append(a.vips, ip)
	}
}

func describeDevice(d config.Device) string {
	if d.Interface() != "" {
		return fmt.Sprintf("interface %q", d.Interface())
	}
	return "the device selector"
}

func deviceMatches(d config.Device, l link) bool {
	s := d.Selector()
	if s == nil || d.Interface() != "" {
		return d.Interface() == l.name
	}
	physical := s.Physical()
	return globMatches(s.HardwareAddress(), l.mac.String()) && globMatches(s.PermanentAddress(), l.mac.String()) &&
		globMatches(s.Bus(), l.bus) && globMatches(s.PCIID(), linkPCIID) && globMatches(s.KernelDriver(), linkDriver) &&
		(physical == nil || *physical)
}

func globMatches(pattern, value string) bool {
	return pattern == "" || glob.Glob(strings.ToLower(pattern), strings.ToLower(value))
}

func parseAddress(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(ip, ip.BitLen()), nil
}

// documents applies LinkConfig, DHCPv4Config, LinkAliasConfig and Layer2VIPConfig.
func (a *addressing) documents(cfg config.Config, wantLease []bool) {
	aliases := a.aliases(cfg)
	find := func(name string) int {
		return slices.IndexFunc(a.links, func(l link) bool { return l.name == name || aliases[name] == l.name })
	}
	for _, d := range cfg.NetworkCommonLinkConfigs() {
		i := find(d.Name())
		if i < 0 {
			a.problems = append(a.problems, fmt.Sprintf("LinkConfig %q: no such network device", d.Name()))
			continue
		}
		for _, addr := range d.Addresses() {
			a.add(i, addr.Address())
		}
	}
	for _, d := range cfg.NetworkDHCPv4Configs() {
		if i := find(d.Name()); i >= 0 {
			wantLease[i] = true
		}
	}
	for _, d := range cfg.NetworkVirtualIPConfigs() {
		if find(d.Link()) >= 0 {
			a.vips = append(a.vips, d.VIP())
		}
	}
}

// aliases evaluates LinkAliasConfig documents: alias to link name. A selector must match exactly one link.
func (a *addressing) aliases(cfg config.Config) map[string]string {
	found := map[string]string{}
	for _, alias := range cfg.NetworkLinkAliasConfigs() {
		selector := alias.LinkSelector()
		var matched []string
		for _, l := range a.links {
			spec := &networkpb.LinkStatusSpec{}
			if err := proto.ResourceSpecToProto(l.resource(), spec); err != nil {
				continue
			}
			if ok, err := selector.EvalBool(celenv.LinkLocator(), map[string]any{"link": spec}); err == nil && ok {
				matched = append(matched, l.name)
			}
		}
		if len(matched) == 1 {
			found[alias.Name()] = matched[0]
		}
	}
	return found
}

func (l link) resource() *network.LinkStatus {
	r := network.NewLinkStatus(network.NamespaceName, l.name)
	spec := r.TypedSpec()
	spec.Index = l.index
	spec.Type = nethelpers.LinkEther
	spec.HardwareAddr = nethelpers.HardwareAddr(l.mac)
	spec.PermanentAddr = nethelpers.HardwareAddr(l.mac)
	spec.BroadcastAddr = nethelpers.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	spec.MTU = 1500
	spec.OperationalState = nethelpers.OperStateUp
	spec.LinkState = true
	spec.BusPath = l.bus
	spec.PCIID = linkPCIID
	spec.Driver = linkDriver
	return r
}

// all lists the machine's own addresses (no shared ones), link by link.
func (a addressing) all() []netip.Prefix {
	var found []netip.Prefix
	for _, l := range a.links {
		found = append(found, l.addresses...)
	}
	return found
}
