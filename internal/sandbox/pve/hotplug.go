package pve

import (
	"strings"
)

// plug applies those pending changes that a running machine takes at once; the rest waits for it to stop.
func (c *call) plug(m *machine) error {
	s := c.server
	features := hotplugFeatures(m.Config["hotplug"])
	errs := map[string]string{}
	for _, option := range sortedKeys(m.Delete) {
		if !unpluggable(m, features, option) {
			continue
		}
		force := m.Delete[option]
		if isDrive(option) {
			if force {
				if err := c.requireMachine(m.VMID, "", "VM.Config.Disk"); err != nil {
					errs[option] = "hotplug problem - " + flatten(err)
					continue
				}
			}
			s.detach(m, option, force)
		}
		delete(m.Config, option)
		delete(m.Delete, option)
	}
	for _, option := range sortedKeys(m.Pending) {
		text := m.Pending[option]
		ready, problem := s.pluggable(m, features, option, text)
		if problem != "" {
			errs[option] = "hotplug problem - " + problem
			continue
		}
		if !ready {
			continue
		}
		if isDrive(option) {
			s.replaceDrive(m, option, text)
		}
		m.Config[option] = text
		delete(m.Pending, option)
	}
	if len(errs) > 0 {
		return paramErrors(errs)
	}
	return nil
}

func hotplugFeatures(text string) map[string]bool {
	if text == "" || text == "1" {
		text = "network,disk,usb"
	}
	features := map[string]bool{}
	for _, feature := range splitList(text) {
		features[feature] = true
	}
	return features
}

// affectsNothing tells the options that mean nothing to a running machine.
func affectsNothing(option string) bool {
	switch option {
	case "description", "hookscript", "lock", "migrate_downtime", "migrate_speed", "name", "onboot", "protection", "shares",
		"startup", "tags", "vmstatestorage", "cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver",
		"searchdomain", "sshkeys":
		return true
	}
	return strings.HasPrefix(option, "ipconfig")
}

// unpluggable tells whether an option can be removed while the machine runs.
func unpluggable(m *machine, features map[string]bool, option string) bool {
	kind := strings.TrimRight(option, "0123456789")
	switch {
	case affectsNothing(option), option == "cpuunits", option == "cpulimit":
		return true
	case option == "vcpus":
		return features["cpu"]
	case option == "memory":
		return features["memory"]
	case option == "balloon":
		return m.Config["balloon"] != "0"
	case option == "tablet", kind == "usb":
		return features["usb"]
	case kind == "net":
		return features["network"]
	case isDrive(option):
		return features["disk"] && kind != "ide" && kind != "sata" && !isStateDrive(option)
	}
	return false
}

// pluggable tells whether a value can be set while the machine runs, or why QEMU refuses it.
func (s *Server) pluggable(m *machine, features map[string]bool, option, text string) (ready bool, problem string) {
	kind := strings.TrimRight(option, "0123456789")
	switch {
	case affectsNothing(option), option == "cpuunits", option == "cpulimit":
		return true, ""
	case option == "hotplug":
		old := hotplugFeatures(m.Config["hotplug"])
		wanted := hotplugFeatures(text)
		return !wanted["memory"] && !old["memory"] && !wanted["cpu"] && !old["cpu"], ""
	case option == "balloon":
		return (m.Config["balloon"] != "0") == (text != "0"), ""
	case option == "vcpus":
		return features["cpu"], ""
	case option == "memory":
		return features["memory"], ""
	case option == "tablet", kind == "usb":
		return features["usb"], ""
	case option == "agent":
		return s.agentOptionsOnly(m.Config["agent"], text), ""
	case kind == "net":
		return features["network"], ""
	case isDrive(option):
		return s.drivePluggable(m, features["disk"], option, text)
	}
	return false, ""
}

// agentOptionsOnly tells whether two values of the agent option differ only in what Proxmox itself looks at.
func (s *Server) agentOptionsOnly(old, text string) bool {
	f := s.schema.config["agent"].Format.fields
	before, errBefore := s.schema.parseProperties(f, old, "agent")
	after, errAfter := s.schema.parseProperties(f, text, "agent")
	return errBefore == nil && errAfter == nil && before["enabled"] == after["enabled"] &&
		firstOf(before["type"], "virtio") == firstOf(after["type"], "virtio")
}

func (s *Server) drivePluggable(m *machine, hotplug bool, option, text string) (ready bool, problem string) {
	if isStateDrive(option) {
		return false, ""
	}
	d, old := s.schema.parseDrive(option, text), s.schema.parseDrive(option, m.Config[option])
	if d == nil {
		return false, ""
	}
	fixed := strings.HasPrefix(option, "ide") || strings.HasPrefix(option, "sata")
	if old == nil {
		return hotplug && !fixed, ""
	}
	if d.isCDROM() != old.isCDROM() {
		return false, "unable to change media type"
	}
	if d.isCDROM() {
		return true, ""
	}
	if d.file() != old.file() {
		return hotplug && !fixed, ""
	}
	for _, name := range []string{"aio", "discard", "iothread", "queues", "product", "cache", "ssd", "vendor", "ro"} {
		if d.fields[name] != old.fields[name] {
			return false, ""
		}
	}
	return true, ""
}
