package factory

import (
	"fmt"
	"strings"
)

// DefaultVersions are the releases of Talos v1.10 to v1.13, the lines that this project can meet.
func DefaultVersions() []string {
	var versions []string
	for _, line := range []struct{ minor, last int }{{10, 9}, {11, 6}, {12, 11}, {13, 9}} {
		for patch := range line.last + 1 {
			versions = append(versions, fmt.Sprintf("v1.%d.%d", line.minor, patch))
		}
	}
	return versions
}

// DefaultExtensions are the official extensions of Talos v1.13 by full name.
func DefaultExtensions() []string {
	names := strings.Fields(`
		amazon-ena amd-ucode amdgpu binfmt-misc bird2 bnx2-bnx2x btrfs chelsio-drivers chelsio-firmware cloudflared crun
		ctr drbd dvb-cx23885 dvb-m88ds3103 ecr-credential-provider fuse3 gasket-driver glibc gpio-pinctrl gvisor
		gvisor-debug hailort hello-world-service i915 intel-ice-firmware intel-npu intel-ucode iscsi-tools joydev
		kata-containers lldpd mdadm mei mellanox-mstflint metal-agent multipath-tools nebula netbird newt nfs-utils nfsd
		nfsrahead nut-client nvidia-container-toolkit-lts nvidia-container-toolkit-production nvidia-fabricmanager-lts
		nvidia-fabricmanager-production nvidia-gdrdrv-device nvidia-open-gpu-kernel-modules-lts
		nvidia-open-gpu-kernel-modules-production nvme-cli panfrost px-fuse qemu-guest-agent qlogic-firmware
		realtek-firmware revpi-firmware rockchip-rknn soci-snapshotter spin stargz-snapshotter tailscale tenstorrent
		thunderbolt trident-iscsi-tools uhid uinput usb-audio-drivers usb-modem-drivers util-linux-tools v4l-uvc-drivers
		vc4 vmtoolsd-guest-agent wasmedge xdma-driver xe xen-guest-agent youki zerotier zfs`)
	for i, name := range names {
		names[i] = "siderolabs/" + name
	}
	return names
}

// extensionAlias gives the present name of an extension that was renamed.
func extensionAlias(name string) (string, bool) {
	alias, ok := map[string]string{
		"siderolabs/amdgpu-firmware":                "siderolabs/amdgpu",
		"siderolabs/gasket":                         "siderolabs/gasket-driver",
		"siderolabs/i915-ucode":                     "siderolabs/i915",
		"siderolabs/nvidia-container-toolkit":       "siderolabs/nvidia-container-toolkit-lts",
		"siderolabs/nvidia-open-gpu-kernel-modules": "siderolabs/nvidia-open-gpu-kernel-modules-lts",
		"siderolabs/talos-vmtoolsd":                 "siderolabs/vmtoolsd-guest-agent",
		"siderolabs/usb-modem":                      "siderolabs/usb-modem-drivers",
		"siderolabs/v4l-uvc":                        "siderolabs/v4l-uvc-drivers",
		"siderolabs/xe-guest-utilities":             "siderolabs/xen-guest-agent",
	}[name]
	return alias, ok
}
