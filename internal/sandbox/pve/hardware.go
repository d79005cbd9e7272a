package pve

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// hardware turns a configuration into what firmware and guest see, or tells why QEMU does not start. log is what QEMU and
// Proxmox print meanwhile. The caller holds the server's lock.
func (s *Server) hardware(m *machine) (hw Hardware, log []string, err error) {
	config := m.Config
	hw = Hardware{
		VMID: m.VMID, Node: m.Node, Name: m.name(), Cores: m.number("cores", 1) * m.number("sockets", 1),
		Memory: m.memory(config["memory"]), CPU: "kvm64", UEFI: config["bios"] == "ovmf", ISO: map[string]string{},
	}
	if hw.Cores > s.options.CPUs {
		return hw, nil, die("MAX %d vcpus allowed per VM on this node", s.options.CPUs)
	}
	if int64(hw.Memory)<<20 > s.options.Memory {
		log = append(log, fmt.Sprintf("kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory (%d MiB)", hw.Memory))
		return hw, log, errQEMU()
	}
	if values, err := s.schema.parseProperties(s.schema.formats["pve-vm-cpu-conf"], config["cpu"], "cpu"); err == nil && values["cputype"] != "" {
		hw.CPU = values["cputype"]
	}
	if values, err := s.schema.parseProperties(s.schema.formats["pve-qm-smbios1"], config["smbios1"], "smbios1"); err == nil {
		hw.UUID = values["uuid"]
	}
	hw.Agent = s.agentEnabled(config)
	if log, err = s.attachDrives(m, &hw); err != nil {
		return hw, log, err
	}
	if hw.UEFI && hw.EFIVolume == "" {
		log = append(log, "WARN: no efidisk configured! Using temporary efivars disk.")
	}
	more, err := s.attachNetwork(config, &hw)
	hw.BootOrder = s.effectiveBootOrder(config)
	return hw, append(log, more...), err
}

// errQEMU is how a start fails whose reason QEMU has printed to the log.
func errQEMU() error { return die("start failed: QEMU exited with code 1") }

func (s *Server) attachDrives(m *machine, hw *Hardware) (log []string, err error) {
	q35 := strings.Contains(m.Config["machine"], "q35")
	for _, d := range s.schema.drives(m.Config) {
		file := d.file()
		if file == "none" || file == "cdrom" {
			continue
		}
		v := s.state.Volumes[volumeKey(m.Node, file)]
		if v == nil {
			return log, s.missingVolume(file)
		}
		if index := strings.TrimPrefix(d.option, "ide"); q35 && !s.options.FixedQ35IDE && (index == "1" || index == "3") {
			device, bus := "ide-hd", atoi(index)/2
			if d.isCDROM() {
				device = "ide-cd"
			}
			return append(log, fmt.Sprintf("kvm: -device %s,bus=ide.%d,unit=1,drive=drive-%s,id=%s: Can't create IDE unit 1, bus supports only 1 units",
				device, bus, d.option, d.option)), errQEMU()
		}
		switch {
		case d.option == "efidisk0":
			hw.EFIVolume, hw.PreEnrolledKeys = s.identity(v), d.fields["pre-enrolled-keys"] == "1"
		case d.option == "tpmstate0":
			// Guests need TPM 2.0; an older version is no TPM to them.
			if d.fields["version"] == "v2.0" {
				hw.TPMVolume = s.identity(v)
			}
		case d.isCDROM():
			file, err := filepath.Abs(v.File)
			if err != nil {
				return log, err
			}
			hw.ISO[d.option] = file
		default:
			hw.Disks = append(hw.Disks, Disk{Device: d.option, Volume: s.identity(v), Bytes: v.Size})
		}
	}
	return log, nil
}

func (s *Server) missingVolume(id string) error {
	name, ok, err := s.parseVolume(id)
	if err != nil {
		return err
	}
	if ok && !name.storage.isDir() {
		return die("no such logical volume %s/%s", name.storage.volumeGroup(), strings.TrimPrefix(id, name.storage.Name+":"))
	}
	return die("volume '%s' does not exist", id)
}

// identity names a volume so that one which took over the name of a removed one is told apart.
func (s *Server) identity(v *volume) string {
	if n := s.state.Generations[volumeKey(v.Node, v.id())]; n > 1 {
		return v.id() + "~" + strconv.Itoa(n)
	}
	return v.id()
}

func (s *Server) attachNetwork(config map[string]string, hw *Hardware) (log []string, err error) {
	for i := range deviceLimit("net") {
		option := "net" + strconv.Itoa(i)
		if config[option] == "" {
			continue
		}
		values, err := s.schema.parseProperties(s.schema.config[option].Format.fields, config[option], option)
		if err != nil {
			return log, err
		}
		bridge := values["bridge"]
		if bridge != "" && !slices.Contains(s.options.Bridges, bridge) {
			script := "/usr/libexec/qemu-server/pve-bridge"
			return append(log,
				fmt.Sprintf("bridge '%s' does not exist", bridge),
				fmt.Sprintf("kvm: -netdev type=tap,id=%s,ifname=tap%di%d,script=%s,downscript=%sdown,vhost=on: network script %s failed with status 512",
					option, hw.VMID, i, script, script, script),
			), errQEMU()
		}
		hw.NICs = append(hw.NICs, NIC{MAC: values["macaddr"], Bridge: bridge, VLAN: atoi(values["tag"])})
	}
	return log, nil
}

// effectiveBootOrder is the boot option's order, or what Proxmox does without one.
func (s *Server) effectiveBootOrder(config map[string]string) []string {
	if order := s.schema.bootOrder(config["boot"]); len(order) > 0 {
		return order
	}
	return s.schema.bootOrder(s.schema.defaultBoot(config))
}

func (s *Server) agentEnabled(config map[string]string) bool {
	values, err := s.schema.parseProperties(s.schema.config["agent"].Format.fields, config["agent"], "agent")
	return err == nil && values["enabled"] == "1"
}
