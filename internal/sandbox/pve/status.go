package pve

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// summary is a machine as lists and its status show it.
func (s *Server) summary(m *machine) map[string]any {
	result := map[string]any{
		"vmid": m.VMID, "name": m.name(), "status": "stopped", "uptime": int64(0), "cpu": 0, "mem": int64(0), "disk": 0,
		"netin": 0, "netout": 0, "diskread": 0, "diskwrite": 0,
		"cpus":   min(m.number("vcpus", m.number("cores", 1)*m.number("sockets", 1)), s.options.CPUs),
		"maxmem": int64(m.memory(m.Config["memory"])) << 20, "maxdisk": s.bootDiskSize(m.Config),
	}
	if m.running() {
		uptime := int64(s.options.Now().Sub(m.Started).Seconds())
		result["status"], result["pid"], result["uptime"] = "running", m.PID, uptime
		result["mem"] = result["maxmem"]
	}
	if balloon := m.number("balloon", 0); balloon > 0 {
		result["balloon_min"], result["shares"] = int64(balloon)<<20, m.number("shares", 1000)
	}
	for _, option := range []string{"lock", "tags"} {
		if text := m.Config[option]; text != "" {
			result[option] = text
		}
	}
	if m.Config["template"] == "1" {
		result["template"] = 1
	}
	if m.Config["serial0"] != "" {
		result["serial"] = 1
	}
	return result
}

// bootDiskSize is the size of the first disk in the boot order.
func (s *Server) bootDiskSize(config map[string]string) int64 {
	for _, option := range s.effectiveBootOrder(config) {
		d := s.schema.parseDrive(option, config[option])
		if config[option] == "" || d == nil || d.isCDROM() {
			continue
		}
		if bytes, err := strconv.ParseInt(d.fields["size"], 10, 64); err == nil {
			return bytes
		}
	}
	return 0
}

func (s *Server) machines(node string) []*machine {
	var list []*machine
	for _, vmid := range slices.Sorted(maps.Keys(s.state.Machines)) {
		if m := s.state.Machines[vmid]; node == "" || m.Node == node {
			list = append(list, m)
		}
	}
	return list
}

func machineList(c *call) (any, error) {
	list := []map[string]any{}
	for _, m := range c.server.machines(c.node) {
		if c.may("/vms/"+strconv.Itoa(m.VMID), "VM.Audit") {
			list = append(list, c.server.summary(m))
		}
	}
	return list, nil
}

func machineIndex(*call) (any, error) {
	list := []map[string]any{}
	for _, name := range []string{"config", "pending", "status", "resize", "agent"} {
		list = append(list, map[string]any{"subdir": name})
	}
	return list, nil
}

// machineStatus is GET …/status/current.
func machineStatus(c *call) (any, error) {
	m, err := c.server.find(c.node, c.vmid())
	if err != nil {
		return nil, err
	}
	result := c.server.summary(m)
	result["qmpstatus"] = result["status"]
	result["ha"] = map[string]any{"managed": 0}
	if m.running() {
		result["running-qemu"], result["running-machine"] = qemuVersion, runningMachine(m.Config["machine"])
	}
	if c.server.agentEnabled(m.Config) {
		result["agent"] = 1
	}
	return result, nil
}

func runningMachine(text string) string {
	if strings.Contains(text, "q35") {
		return "pc-q35-9.2+pve1"
	}
	return "pc-i440fx-9.2+pve1"
}

// agentInterfaces is GET …/agent/network-get-interfaces.
func agentInterfaces(c *call) (any, error) {
	s, vmid := c.server, c.vmid()
	m, err := s.find(c.node, vmid)
	if err != nil {
		return nil, err
	}
	if _, configured := m.Config["agent"]; !configured {
		return nil, die("No QEMU guest agent configured")
	}
	if !m.running() {
		return nil, die("VM %d is not running", vmid)
	}
	// Without the device the agent cannot be reached, whatever runs in the guest.
	silent := !s.agentEnabled(m.Config) || c.fault != nil && c.fault.AgentSilent
	if silent {
		return nil, die("%v", ErrAgentNotRunning)
	}
	var interfaces []Interface
	err = c.unlocked(func() error {
		interfaces, err = s.options.Guests.Interfaces(vmid)
		return err
	})
	if errors.Is(err, ErrAgentNotRunning) {
		return nil, die("%v", ErrAgentNotRunning)
	}
	if err != nil {
		return nil, die("VM %d qga command 'guest-network-get-interfaces' failed - %v", vmid, err)
	}
	linkLocalOnly := c.fault != nil && c.fault.LinkLocalOnly
	list := []map[string]any{}
	for _, i := range interfaces {
		list = append(list, interfaceJSON(i, linkLocalOnly))
	}
	return map[string]any{"result": list}, nil
}

func interfaceJSON(i Interface, linkLocalOnly bool) map[string]any {
	addresses := []map[string]any{}
	for _, text := range i.Addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		address := prefix.Addr()
		if linkLocalOnly && !address.IsLinkLocalUnicast() && !address.IsLoopback() {
			continue
		}
		kind := "ipv4"
		if address.Is6() {
			kind = "ipv6"
		}
		addresses = append(addresses, map[string]any{"ip-address": address.String(), "ip-address-type": kind, "prefix": prefix.Bits()})
	}
	entry := map[string]any{
		"name": i.Name, "ip-addresses": addresses,
		"statistics": map[string]any{
			"rx-bytes": 0, "rx-packets": 0, "rx-errs": 0, "rx-dropped": 0, "tx-bytes": 0, "tx-packets": 0, "tx-errs": 0, "tx-dropped": 0,
		},
	}
	if i.MAC != "" {
		entry["hardware-address"] = strings.ToLower(i.MAC)
	}
	return entry
}
