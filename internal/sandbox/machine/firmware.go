package machine

import (
	"fmt"
	"strings"

	"cloudlab/internal/sandbox/pve"
)

// medium is what the firmware starts.
type medium struct {
	device string
	image  Image
	iso    bool
	// volume is the disk's volume when it is not an ISO.
	volume string
	// secureBoot is true when the firmware verified the image.
	secureBoot bool
	// setupMode is true when the firmware has no keys and so verifies nothing.
	setupMode bool
}

// firmwareKeys is the state of the UEFI variable store.
type firmwareKeys int

const (
	// noKeys is Setup Mode.
	noKeys firmwareKeys = iota
	factoryKeys
	microsoftKeys
)

// boot walks the boot order as SeaBIOS or OVMF does. Without a bootable medium it returns the reasons per device.
func boot(hw pve.Hardware, keys firmwareKeys, disk func(volume string) *Image, iso func(path string) (Image, error)) (*medium, string) {
	var reasons []string
	for _, device := range hw.BootOrder {
		m, reason := load(hw, device, disk, iso)
		if reason == "" && m == nil {
			continue
		}
		if reason == "" {
			reason = refusal(hw, keys, m)
		}
		if reason != "" {
			reasons = append(reasons, device+": "+reason)
			continue
		}
		m.setupMode = hw.UEFI && keys == noKeys
		m.secureBoot = hw.UEFI && keys == factoryKeys
		return m, ""
	}
	if len(reasons) == 0 {
		reasons = append(reasons, "the boot order is empty or names no disk and no CD-ROM")
	}
	return nil, "no bootable device: " + strings.Join(reasons, "; ")
}

func load(hw pve.Hardware, device string, disk func(string) *Image, iso func(string) (Image, error)) (*medium, string) {
	for _, d := range hw.Disks {
		if d.Device != device {
			continue
		}
		image := disk(d.Volume)
		if image == nil {
			return nil, "the disk holds no operating system"
		}
		return &medium{device: device, volume: d.Volume, image: *image}, ""
	}
	path, ok := hw.ISO[device]
	if !ok {
		return nil, ""
	}
	if path == "" {
		return nil, "no medium"
	}
	image, err := iso(path)
	if err != nil {
		return nil, fmt.Sprintf("not a Talos ISO: %v", err)
	}
	return &medium{device: device, iso: true, image: image}, ""
}

// refusal says why the firmware does not start a medium; empty when it does.
func refusal(hw pve.Hardware, keys firmwareKeys, m *medium) string {
	switch {
	case !hw.UEFI && m.image.SecureBoot:
		return "a SecureBoot image starts under UEFI (OVMF) only and this is SeaBIOS"
	case hw.UEFI && keys == microsoftKeys:
		return "Access Denied by Secure Boot: the EFI disk has pre-enrolled Microsoft keys, which do not trust Talos"
	case hw.UEFI && keys == factoryKeys && !m.image.SecureBoot:
		return "Access Denied by Secure Boot: the image is not signed (not a SecureBoot variant)"
	default:
		return ""
	}
}

// cpuModel is QEMU's CPU model out of a Proxmox cpu option such as "cputype=host,flags=+aes". Proxmox' default is kvm64.
func cpuModel(option string) string {
	model, _, _ := strings.Cut(option, ",")
	model = strings.TrimPrefix(model, "cputype=")
	if model == "" {
		return "kvm64"
	}
	return model
}

// supportsV2 is false for QEMU CPU models that lack x86-64-v2 (SSE4.2, POPCNT), which Talos requires.
func supportsV2(model string) bool {
	switch strings.ToLower(model) {
	case "486", "athlon", "conroe", "core2duo", "coreduo", "kvm32", "kvm64", "opteron_g1", "opteron_g2", "opteron_g3",
		"penryn", "pentium", "pentium2", "pentium3", "phenom", "qemu32", "qemu64":
		return false
	default:
		return true
	}
}
