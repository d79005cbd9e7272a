package pve

import (
	"context"
	"errors"
)

// ErrAgentNotRunning is what Guests.Interfaces returns while no guest agent answers.
var ErrAgentNotRunning = errors.New("QEMU guest agent is not running")

// Guests powers the simulated machines on behalf of the hypervisor. The consumer of the simulator implements it.
type Guests interface {
	// PowerOn starts the guest with this hardware and returns at once, as QEMU does. It may be called again after PowerOff.
	PowerOn(hw Hardware) error
	// PowerOff stops the guest at once, as pulling the plug does. Unknown or stopped guests are ignored.
	PowerOff(vmid int)
	// Shutdown asks the guest to stop (ACPI) and waits until it has, or ctx ends.
	Shutdown(ctx context.Context, vmid int) error
	// Interfaces answers for the guest agent, or returns ErrAgentNotRunning.
	Interfaces(vmid int) ([]Interface, error)
	// Destroy forgets everything stored on the guest's volumes.
	Destroy(vmid int)
}

// Hardware is a virtual machine as its firmware and guest see it.
type Hardware struct {
	VMID   int
	Node   string // Proxmox node
	Name   string
	UUID   string // SMBIOS
	Cores  int
	Memory int // MiB
	CPU    string
	// UEFI is true with bios=ovmf. EFIVolume identifies the EFI variable store (a new volume holds no enrolled keys);
	// PreEnrolledKeys is true when it was made with Microsoft's keys.
	UEFI            bool
	EFIVolume       string
	PreEnrolledKeys bool
	// TPMVolume identifies the virtual TPM v2.0's state; empty without one.
	TPMVolume string
	// BootOrder lists device names, e.g. scsi0, ide2.
	BootOrder []string
	Disks     []Disk
	// ISO maps a CD-ROM device (ide2) to the medium's content on the host's file system.
	ISO   map[string]string
	NICs  []NIC
	Agent bool
}

// Disk is a hard disk. Volume changes when the disk is replaced.
type Disk struct {
	Device string // scsi0
	Volume string // local-lvm:vm-101-disk-1
	Bytes  int64
}

// NIC is a network device.
type NIC struct {
	MAC    string
	Bridge string
	VLAN   int
}

// Interface is what a guest agent reports of a network interface.
type Interface struct {
	Name      string
	MAC       string
	Addresses []string // with prefix, e.g. 192.0.2.11/24, fe80::1/64
}
