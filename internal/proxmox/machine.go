package proxmox

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/muhlba91/pulumi-proxmoxve/sdk/v6/go/proxmoxve/vm"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"cloudlab/internal/config"
)

const (
	// cdromDevice and diskDevice: q35 has ide0 and ide2 only; the provider's default ide3 keeps QEMU from starting.
	cdromDevice    = "ide2"
	diskDevice     = "scsi0"
	dataDiskDevice = "scsi1"
	// noMedium leaves the CD-ROM drive empty.
	noMedium = "none"

	// agentTimeout bounds every wait for the guest agent: on creation, but also on each refresh while a machine is down.
	agentTimeout = "2m"
	// Timeouts of power operations, in seconds. The provider's own are half an hour.
	createTimeout, startTimeout, stopTimeout = 300, 300, 120
)

// Machines are the cluster's virtual machines.
type Machines struct {
	pulumi.ResourceState

	// ByName maps a node's name to its machine.
	ByName map[string]*Machine
}

// Machine is one virtual machine.
type Machine struct {
	// Resource is for dependencies on the machine: what is stored on it goes and comes with it.
	Resource pulumi.Resource
	// Addresses are the routable addresses that the guest agent reported when the machine was last read; empty when it did not answer.
	Addresses pulumi.StringArrayOutput
	// Look asks Proxmox about the machine now.
	Look func(context.Context) Sight
}

// MachinesArgs describe the machines.
type MachinesArgs struct {
	Cluster *config.Cluster
	Image   *BootImage
	// Owner identifies this incarnation of the cluster. It stands in each machine's description and tells a machine that an
	// interrupted run left behind from one that belongs to somebody else.
	Owner pulumi.StringOutput
	// Orphans clears what an interrupted run left behind, before a machine is created.
	Orphans *Orphans
}

// NewMachines creates the machines.
func NewMachines(ctx *pulumi.Context, name string, args MachinesArgs, opts ...pulumi.ResourceOption) (*Machines, error) {
	machines := &Machines{ByName: map[string]*Machine{}}
	if err := ctx.RegisterComponentResourceV2("cloudlab:proxmox:Machines", name, pulumi.Map{}, machines, opts...); err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	clear, err := ctx.RegisterResourceHook("clear-orphan", args.Orphans.beforeCreate, nil)
	if err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	outputs := pulumi.Map{}
	for _, node := range args.Cluster.Nodes {
		resource, err := vm.NewVirtualMachine(ctx, node.Name, machineArgs(args, node),
			pulumi.Parent(machines),
			pulumi.Protect(args.Cluster.Protect),
			// A machine's number, MAC and disks are unique: the old one must be gone before the new one comes.
			pulumi.DeleteBeforeReplace(true),
			pulumi.IgnoreChanges(noise(node)),
			pulumi.ReplaceOnChanges(irreplaceable()),
			pulumi.ResourceHooks(&pulumi.ResourceHookBinding{BeforeCreate: []*pulumi.ResourceHook{clear}}))
		if err != nil {
			return nil, fmt.Errorf("machine %q: %w", node.Name, err)
		}
		machine := &Machine{
			Resource: resource,
			Addresses: pulumi.All(resource.MacAddresses, resource.Ipv4Addresses, resource.Ipv6Addresses).ApplyT(
				func(all []any) []string {
					return reportedAddresses(node.MAC, all[0].([]string), all[1].([][]string), all[2].([][]string))
				}).(pulumi.StringArrayOutput),
			Look: func(look context.Context) Sight { return args.Orphans.sight(look, node) },
		}
		machines.ByName[node.Name] = machine
		outputs[node.Name] = machine.Addresses
	}
	if err := ctx.RegisterResourceOutputs(machines, pulumi.Map{"addresses": outputs}); err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	return machines, nil
}

// irreplaceable lists the properties that the provider would change in place at the price of the node: another EFI disk or TPM makes the
// encrypted STATE partition unreadable, under another MAC the node no longer finds its network device. As replacements they
// are refused while the machine is protected.
func irreplaceable() []string { return []string{"efiDisk", "tpmState", "networkDevices[0].macAddress"} }

// noise lists the properties that the provider reads back other than they were set.
func noise(node config.Node) []string {
	// v0.69 of the underlying provider attaches no medium without it, later ones read it back as false for ever.
	paths := []string{"cdrom.enabled"}
	// The bridge fills in speed limits of 0, the provider reads them back as none. A wildcard is not understood here.
	paths = append(paths, "disks[0].speed")
	if node.DataDisk > 0 {
		paths = append(paths, "disks[1].speed")
	}
	return paths
}

func machineArgs(args MachinesArgs, node config.Node) *vm.VirtualMachineArgs {
	cluster := args.Cluster
	stores := cluster.Proxmox.Datastores
	var iso pulumi.StringInput = pulumi.String(noMedium)
	if !cluster.Image.Eject {
		iso = args.Image.FileIDs[node.ProxmoxNode].ToStringOutput()
	}
	machine := &vm.VirtualMachineArgs{
		NodeName:    pulumi.String(node.ProxmoxNode),
		VmId:        pulumi.Int(node.VMID),
		Name:        pulumi.String(node.Name),
		Description: description(cluster, node, args.Owner),
		Tags:        pulumi.ToStringArray(cluster.Proxmox.Tags),
		OnBoot:      pulumi.Bool(true),
		Started:     pulumi.Bool(true),
		// Talos has no state that an ACPI shutdown would save and a dead guest would never answer it.
		StopOnDestroy: pulumi.Bool(true),

		Machine:       pulumi.String("q35"),
		Bios:          pulumi.String("ovmf"),
		TabletDevice:  pulumi.Bool(false),
		ScsiHardware:  pulumi.String("virtio-scsi-pci"),
		BootOrders:    pulumi.ToStringArray([]string{diskDevice, cdromDevice}),
		Cpu:           &vm.VirtualMachineCpuArgs{Cores: pulumi.Int(node.Cores), Sockets: pulumi.Int(1), Type: pulumi.String(node.CPUType)},
		Memory:        &vm.VirtualMachineMemoryArgs{Dedicated: pulumi.Int(node.Memory), Floating: pulumi.Int(0)},
		Agent:         &vm.VirtualMachineAgentArgs{Enabled: pulumi.Bool(true), Timeout: pulumi.String(agentTimeout), Trim: pulumi.Bool(false), Type: pulumi.String("virtio")},
		Vga:           &vm.VirtualMachineVgaArgs{Type: pulumi.String("std"), Memory: pulumi.Int(16)},
		SerialDevices: vm.VirtualMachineSerialDeviceArray{&vm.VirtualMachineSerialDeviceArgs{Device: pulumi.String("socket")}},
		OperatingSystem: &vm.VirtualMachineOperatingSystemArgs{
			Type: pulumi.String("l26"),
		},
		// Keys are not pre-enrolled: firmware in Setup Mode takes Talos' own from the ISO. Replacing either of these two
		// makes the encrypted STATE partition unreadable.
		EfiDisk: &vm.VirtualMachineEfiDiskArgs{
			DatastoreId: pulumi.String(stores.EFI), FileFormat: pulumi.String("raw"), Type: pulumi.String("4m"), PreEnrolledKeys: pulumi.Bool(false),
		},
		TpmState: &vm.VirtualMachineTpmStateArgs{DatastoreId: pulumi.String(stores.TPM), Version: pulumi.String("v2.0")},
		// Enabled is what v0.69 of the underlying provider looks at, the block's presence what later ones do.
		Cdrom: &vm.VirtualMachineCdromArgs{Enabled: pulumi.Bool(true), FileId: iso, Interface: pulumi.String(cdromDevice)},
		Disks: vm.VirtualMachineDiskArray{disk(diskDevice, stores.Disk, node.Disk)},
		NetworkDevices: vm.VirtualMachineNetworkDeviceArray{&vm.VirtualMachineNetworkDeviceArgs{
			Bridge: pulumi.String(cluster.Proxmox.Bridge), Model: pulumi.String("virtio"), MacAddress: pulumi.String(node.MAC),
			Enabled: pulumi.Bool(true), Firewall: pulumi.Bool(false), VlanId: pulumi.Int(cluster.Proxmox.VLAN), Mtu: pulumi.Int(cluster.Proxmox.MTU),
		}},

		TimeoutCreate:     pulumi.Int(createTimeout),
		TimeoutStartVm:    pulumi.Int(startTimeout),
		TimeoutReboot:     pulumi.Int(startTimeout),
		TimeoutShutdownVm: pulumi.Int(stopTimeout),
		TimeoutStopVm:     pulumi.Int(stopTimeout),
	}
	if node.DataDisk > 0 {
		machine.Disks = append(machine.Disks.(vm.VirtualMachineDiskArray), disk(dataDiskDevice, stores.Disk, node.DataDisk))
	}
	if cluster.Proxmox.Pool != "" {
		machine.PoolId = pulumi.String(cluster.Proxmox.Pool)
	}
	return machine
}

// disk is a raw disk (block storages refuse the provider's default qcow2) that hands freed blocks back to thin storage.
func disk(device, datastore string, gib int) *vm.VirtualMachineDiskArgs {
	return &vm.VirtualMachineDiskArgs{
		Interface: pulumi.String(device), DatastoreId: pulumi.String(datastore), FileFormat: pulumi.String("raw"), Size: pulumi.Int(gib),
		Discard: pulumi.String("on"), Ssd: pulumi.Bool(true), Iothread: pulumi.Bool(false), Cache: pulumi.String(noMedium),
		Aio: pulumi.String("io_uring"), Backup: pulumi.Bool(true), Replicate: pulumi.Bool(true),
	}
}

// description is what an operator reads in Proxmox, and how Orphans recognises a machine.
func description(cluster *config.Cluster, node config.Node, owner pulumi.StringOutput) pulumi.StringOutput {
	return owner.ApplyT(func(owner string) string {
		return fmt.Sprintf("Talos %s %s of cluster %s. Managed by Cloudlab: %s", node.Role, node.Name, cluster.Name, ownerMark(owner))
	}).(pulumi.StringOutput)
}

func ownerMark(owner string) string { return "cloudlab-owner=" + owner }

// reportedAddresses picks the addresses of the network device with this MAC. The lists are index-aligned and hold lo and, later,
// the devices of the CNI, in no promised order.
func reportedAddresses(mac string, macs []string, families ...[][]string) []string {
	addresses := []string{}
	for i, reported := range macs {
		if !strings.EqualFold(reported, mac) {
			continue
		}
		for _, family := range families {
			if i >= len(family) {
				continue
			}
			for _, text := range family[i] {
				if address, err := netip.ParseAddr(text); err == nil && address.IsGlobalUnicast() {
					addresses = append(addresses, address.String())
				}
			}
		}
	}
	return addresses
}
