package pve

import (
	"strconv"
	"strings"
)

// optionPrivilege is what changing a configuration option takes. Drives and a few other options depend on their value and are
// checked elsewhere; an empty result means that only root may set the option.
func optionPrivilege(option string) string {
	switch option {
	case "cores", "cpu", "cpulimit", "cpuunits", "numa", "smp", "sockets", "vcpus":
		return "VM.Config.CPU"
	case "memory", "balloon", "shares":
		return "VM.Config.Memory"
	case "acpi", "hotplug", "kvm", "machine", "scsihw", "smbios1", "tablet", "vga", "watchdog", "audio0", "rng0":
		return "VM.Config.HWType"
	case "agent", "autostart", "bios", "description", "keyboard", "localtime", "migrate_downtime", "migrate_speed", "name",
		"onboot", "ostype", "protection", "reboot", "startdate", "startup", "tdf", "template":
		return "VM.Config.Options"
	case "freeze":
		return "VM.PowerMgmt"
	case "boot", "bootdisk", "vmstatestorage":
		return "VM.Config.Disk"
	case "cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys":
		return "VM.Config.Cloudinit"
	}
	switch kind := strings.TrimRight(option, "0123456789"); kind {
	case "numa":
		return "VM.Config.CPU"
	case "net":
		return "VM.Config.Network"
	case "ipconfig":
		return "VM.Config.Cloudinit"
	}
	return ""
}

// dependsOnValue tells the options whose permission is checked by their value.
func dependsOnValue(option string) bool {
	switch strings.TrimRight(option, "0123456789") {
	case "unused", "serial", "usb", "hostpci", "virtiofs":
		return true
	}
	return isDrive(option) || option == "cdrom" || option == "tags"
}

// requireMachine checks privileges on a machine; while it is created, its pool's count too.
func (c *call) requireMachine(vmid int, pool string, privileges ...string) error {
	if pool != "" && c.may("/pool/"+pool, privileges...) {
		return nil
	}
	return c.require("/vms/"+strconv.Itoa(vmid), privileges...)
}

// requireOptions checks the privileges for options whatever their values.
func (c *call) requireOptions(vmid int, pool string, options []string) error {
	for _, option := range options {
		if dependsOnValue(option) {
			continue
		}
		privilege := optionPrivilege(option)
		if privilege == "" {
			return die("only root can set '%s' config", option)
		}
		if privilege == "VM.Config.Cloudinit" {
			if c.requireMachine(vmid, pool, "VM.Config.Network") == nil {
				continue
			}
			if c.requireMachine(vmid, pool, privilege) != nil {
				return c.requireAny("/vms/"+strconv.Itoa(vmid), privilege, "VM.Config.Network")
			}
			continue
		}
		if err := c.requireMachine(vmid, pool, privilege); err != nil {
			return err
		}
		// The startup order changes what the host does.
		if option == "startup" {
			if err := c.require("/", "Sys.Modify"); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayConfigure checks everything that creating a machine with these options takes, but for its volumes.
func (c *call) mayConfigure(vmid int, pool string, params map[string]string) error {
	if err := c.requireOptions(vmid, pool, sortedKeys(params)); err != nil {
		return err
	}
	for _, option := range sortedKeys(params) {
		if err := c.requireDevice(vmid, pool, option, params[option]); err != nil {
			return err
		}
	}
	return c.bridgeAccess(params)
}

// requireDevice checks the privileges for devices that stand for something of the host.
func (c *call) requireDevice(vmid int, pool, option, text string) error {
	kind := strings.TrimRight(option, "0123456789")
	switch kind {
	case "serial":
		if text != "socket" {
			return die("only root can set '%s' config for real devices", option)
		}
		return c.requireMachine(vmid, pool, "VM.Config.HWType")
	case "usb", "hostpci":
		return c.requirePassthrough(vmid, pool, kind, option, text)
	case "rng":
		if err := c.requireMachine(vmid, pool, "VM.Config.HWType"); err != nil {
			return err
		}
		if strings.Contains(text, "/dev/hwrng") {
			return c.require("/mapping/hwrng", "Mapping.Use")
		}
	case "virtiofs":
		if err := c.requireMachine(vmid, pool, "VM.Config.Disk"); err != nil {
			return err
		}
		values, err := c.server.schema.parseProperties(c.server.schema.config[option].Format.fields, text, option)
		if err != nil {
			return err
		}
		return c.require("/mapping/dir/"+values["dirid"], "Mapping.Use")
	}
	return nil
}

func (c *call) requirePassthrough(vmid int, pool, kind, option, text string) error {
	f := c.server.schema.config[option].Format.fields
	mapping, device := "usb", "real devices"
	if kind == "hostpci" {
		f, mapping, device = c.server.schema.formats["pve-qm-hostpci"], "pci", "non-mapped devices"
	}
	values, err := c.server.schema.parseProperties(f, text, option)
	if err != nil {
		return err
	}
	switch {
	case kind == "usb" && strings.EqualFold(values["host"], "spice"):
	case values["host"] != "":
		return die("only root can set '%s' config for %s", option, device)
	case values["mapping"] == "":
		return die("either 'host' or 'mapping' must be set.")
	default:
		if err := c.require("/mapping/"+mapping+"/"+values["mapping"], "Mapping.Use"); err != nil {
			return err
		}
	}
	return c.requireMachine(vmid, pool, "VM.Config.HWType")
}

// bridgeAccess checks SDN.Use for every network device in params. Without SDN zones of its own, a node's bridges are in the
// zone localnetwork.
func (c *call) bridgeAccess(params map[string]string) error {
	for _, option := range sortedKeys(params) {
		if !isNet(option) {
			continue
		}
		values, err := c.server.schema.parseProperties(c.server.schema.config["net0"].Format.fields, params[option], option)
		if err != nil {
			return err
		}
		path := "/sdn/zones/localnetwork/" + values["bridge"]
		tag, trunks := values["tag"], values["trunks"]
		if tag != "" {
			if err := c.require(path+"/"+tag, "SDN.Use"); err != nil {
				return err
			}
		}
		for _, trunk := range splitList(trunks) {
			first, _, _ := strings.Cut(trunk, "-")
			if err := c.require(path+"/"+first, "SDN.Use"); err != nil {
				return err
			}
		}
		if tag == "" && trunks == "" {
			if err := c.require(path, "SDN.Use"); err != nil {
				return err
			}
		}
	}
	return nil
}
