package machine

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	configres "github.com/siderolabs/talos/pkg/machinery/resources/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/etcd"
	"github.com/siderolabs/talos/pkg/machinery/resources/hardware"
	"github.com/siderolabs/talos/pkg/machinery/resources/k8s"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	runtimeres "github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	timeres "github.com/siderolabs/talos/pkg/machinery/resources/time"
)

// disks lists the hard disks as Linux names them, then the CD-ROMs.
func (s *system) disks() []volumeDisk {
	system := s.systemVolume()
	var list []volumeDisk
	scsi, virtio := 0, 0
	for _, d := range s.guest.hw.Disks {
		name := "sd" + string(rune('a'+scsi))
		bus := "virtio"
		if strings.HasPrefix(d.Device, "virtio") {
			name = "vd" + string(rune('a'+virtio))
			virtio++
		} else {
			scsi++
		}
		if strings.HasPrefix(d.Device, "sata") || strings.HasPrefix(d.Device, "ide") {
			bus = "ata"
		}
		r := block.NewDisk(block.NamespaceName, name)
		spec := r.TypedSpec()
		spec.DevPath = "/dev/" + name
		spec.SetSize(uint64(max(d.Bytes, 0)))
		spec.IOSize, spec.SectorSize = 512, 512
		spec.Model, spec.Serial = "QEMU HARDDISK", "drive-"+d.Device
		spec.Transport, spec.Rotational = bus, true
		spec.SubSystem = "/sys/class/block"
		spec.BusPath = "/pci0000:00/0000:00:1e.0/" + d.Device
		spec.Symlinks = []string{"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-" + d.Device}
		list = append(list, volumeDisk{spec: r, volume: d.Volume, system: d.Volume == system && system != ""})
	}
	n := 0
	for range s.guest.hw.ISO {
		r := block.NewDisk(block.NamespaceName, "sr"+strconv.Itoa(n))
		n++
		spec := r.TypedSpec()
		spec.DevPath, spec.CDROM, spec.Model, spec.Transport = "/dev/"+r.Metadata().ID(), true, "QEMU DVD-ROM", "ata"
		spec.SetSize(1 << 30)
		spec.IOSize, spec.SectorSize = 2048, 2048
		list = append(list, volumeDisk{spec: r})
	}
	return list
}

func (s *system) systemDisk() *volumeDisk {
	for _, d := range s.disks() {
		if d.system {
			return &d
		}
	}
	return nil
}

// publishHardware fills in what does not change during a boot.
func (s *system) publishHardware() {
	for _, d := range s.disks() {
		s.put(d.spec)
		if d.system {
			r := block.NewSystemDisk(block.NamespaceName, block.SystemDiskID)
			r.TypedSpec().DiskID, r.TypedSpec().DevPath = d.spec.Metadata().ID(), d.spec.TypedSpec().DevPath
			s.put(r)
			s.publishVolume(volumeResult{id: constants.MetaPartitionLabel, disk: &d, size: metaSize, phase: phaseReady})
		}
	}
	security := runtimeres.NewSecurityStateSpec(runtimeres.NamespaceName)
	security.TypedSpec().SecureBoot = s.medium.secureBoot
	security.TypedSpec().BootedWithUKI = s.guest.hw.UEFI
	security.TypedSpec().SELinuxState = runtimeres.SELinuxStatePermissive
	if s.medium.image.SecureBoot {
		security.TypedSpec().PCRSigningKeyFingerprint = fingerprint("the factory's PCR signing key")
		security.TypedSpec().UKISigningKeyFingerprint = fingerprint("the factory's UKI signing key")
	}
	s.put(security)
	for i, name := range append([]string{s.medium.image.Schematic}, s.medium.image.Extensions...) {
		r := runtimeres.NewExtensionStatus(runtimeres.NamespaceName, strconv.Itoa(i))
		meta := &r.TypedSpec().Metadata
		meta.Name, meta.Version = name[strings.LastIndex(name, "/")+1:], s.medium.image.Version
		if i == 0 {
			meta.Name, meta.Version = "schematic", name
			meta.Description = "Virtual extension which specifies the schematic of the image built with Image Factory."
			meta.Author = "Image Factory"
		}
		r.TypedSpec().Image = meta.Name
		s.put(r)
	}
	platform := runtimeres.NewPlatformMetadataSpec(runtimeres.NamespaceName, runtimeres.PlatformMetadataID)
	platform.TypedSpec().Platform = constants.PlatformMetal
	s.put(platform)
	version := runtimeres.NewVersion()
	version.TypedSpec().Name, version.TypedSpec().Version = "Talos", s.medium.image.Version
	s.put(version)
	info := hardware.NewSystemInformation(hardware.SystemInformationID)
	info.TypedSpec().Manufacturer, info.TypedSpec().ProductName, info.TypedSpec().UUID = "QEMU", "Standard PC (Q35 + ICH9, 2009)", s.guest.hw.UUID
	s.put(info)
	cpu := hardware.NewProcessorInfo("CPU-0")
	cpu.TypedSpec().Manufacturer, cpu.TypedSpec().ProductName = "QEMU", cpuModel(s.guest.hw.CPU)
	cpu.TypedSpec().CoreCount, cpu.TypedSpec().CoreEnabled, cpu.TypedSpec().ThreadCount = uint32(s.guest.hw.Cores), uint32(s.guest.hw.Cores), uint32(s.guest.hw.Cores)
	s.put(cpu)
	memory := hardware.NewMemoryModuleInfo("DIMM-0")
	memory.TypedSpec().Size, memory.TypedSpec().Manufacturer = uint32(s.guest.hw.Memory), "QEMU"
	s.put(memory)
	clock := timeres.NewStatus()
	clock.TypedSpec().Synced = true
	s.put(clock)
	if s.medium.iso {
		cmdline := runtimeres.NewKernelCmdline()
		cmdline.TypedSpec().Cmdline = "talos.platform=metal " + constants.KernelParamHaltIfInstalled + "=1"
		s.put(cmdline)
	}
}

func fingerprint(of string) string {
	text := strings.ToUpper(digest(of))
	var pairs []string
	for i := 0; i < len(text); i += 2 {
		pairs = append(pairs, text[i:i+2])
	}
	return strings.Join(pairs, ":")
}

func (s *system) publishVolume(r volumeResult) { s.put(r.resource()) }

// publishConfig shows a machine configuration and what follows from it.
func (s *system) publishConfig(id resource.ID, cfg config.Provider) {
	s.put(configres.NewMachineConfigWithID(cfg, id))
	if id != configres.ActiveID || cfg.Machine() == nil {
		return
	}
	kind := configres.NewMachineType()
	kind.SetMachineType(cfg.Machine().Type())
	s.put(kind)
	if cfg.Cluster() == nil {
		return
	}
	info := cluster.NewInfo()
	info.TypedSpec().ClusterID, info.TypedSpec().ClusterName = cfg.Cluster().ID(), cfg.Cluster().Name()
	s.put(info)
	node := k8s.NewNodename(k8s.NamespaceName, k8s.NodenameID)
	node.TypedSpec().Nodename = s.hostname()
	s.put(node)
	identity := cluster.NewIdentity(cluster.NamespaceName, cluster.LocalIdentity)
	s.mu.Lock()
	identity.TypedSpec().NodeID = s.nodeID
	s.mu.Unlock()
	s.put(identity)
	if cfg.Machine().Type().IsControlPlane() {
		manifests := k8s.NewBootstrapManifestsConfig()
		manifests.TypedSpec().CNIName = cfg.Cluster().Network().CNI().Name()
		manifests.TypedSpec().ProxyEnabled = cfg.Cluster().Proxy().Enabled()
		manifests.TypedSpec().CoreDNSEnabled = cfg.Cluster().CoreDNS().Enabled()
		manifests.TypedSpec().PodCIDRs = cfg.Cluster().Network().PodCIDRs()
		manifests.TypedSpec().ClusterDomain = cfg.Cluster().Network().DNSDomain()
		s.put(manifests)
	}
}

// publishNetwork shows links, addresses and the host name.
func (s *system) publishNetwork() {
	s.mu.Lock()
	a, held := s.addressing, s.held
	s.mu.Unlock()
	hostname := network.NewHostnameStatus(network.NamespaceName, network.HostnameID)
	hostname.TypedSpec().Hostname = s.hostname()
	s.put(hostname)
	kept := map[string]bool{}
	show := func(l link, p netip.Prefix, scope nethelpers.Scope) {
		r := network.NewAddressStatus(network.NamespaceName, network.AddressID(l.name, p))
		spec := r.TypedSpec()
		spec.Address, spec.Local, spec.LinkIndex, spec.LinkName, spec.Scope = p, p.Addr(), l.index, l.name, scope
		spec.Family = nethelpers.FamilyInet4
		if p.Addr().Is6() {
			spec.Family = nethelpers.FamilyInet6
		}
		spec.Flags = nethelpers.AddressFlags(nethelpers.AddressPermanent)
		kept[r.Metadata().ID()] = true
		s.put(r)
	}
	show(link{index: 1, name: "lo"}, netip.MustParsePrefix("127.0.0.1/8"), nethelpers.ScopeHost)
	var all []netip.Prefix
	for i, l := range a.links {
		s.put(l.resource())
		show(l, l.linkLocal(), nethelpers.ScopeLink)
		for _, p := range l.addresses {
			show(l, p, nethelpers.ScopeGlobal)
			all = append(all, p)
		}
		if i == 0 {
			for _, v := range held {
				p := netip.PrefixFrom(v, v.BitLen())
				show(l, p, nethelpers.ScopeGlobal)
				all = append(all, p)
			}
		}
	}
	s.keep(network.NewAddressStatus(network.NamespaceName, "").Metadata().Copy(), kept)
	for _, id := range []string{network.NodeAddressCurrentID, network.NodeAddressRoutedID, network.NodeAddressAccumulativeID, network.NodeAddressDefaultID} {
		r := network.NewNodeAddress(network.NamespaceName, id)
		r.TypedSpec().Addresses = all
		if id == network.NodeAddressDefaultID && len(all) > 1 {
			r.TypedSpec().Addresses = all[:1]
		}
		s.put(r)
	}
	status := network.NewStatus(network.NamespaceName, network.StatusID)
	status.TypedSpec().AddressReady, status.TypedSpec().ConnectivityReady = len(all) > 0, len(all) > 0
	status.TypedSpec().HostnameReady, status.TypedSpec().EtcFilesReady = true, true
	s.put(status)
}

// show reports whether something published under a name has changed. Rounds are frequent and resources are dear to compare.
func (s *system) show(name, content string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown[name] == content {
		return false
	}
	s.shown[name] = content
	return true
}

// member is a cluster's machine as discovery describes it.
type member struct {
	id       string
	resource *cluster.Member
	content  string
}

func describeMember(p peerView) member {
	r := cluster.NewMember(cluster.NamespaceName, p.sys.hostname())
	spec := r.TypedSpec()
	spec.Hostname, spec.MachineType = p.sys.hostname(), p.cfg.Machine().Type()
	p.sys.mu.Lock()
	spec.NodeID = p.sys.nodeID
	p.sys.mu.Unlock()
	spec.OperatingSystem = fmt.Sprintf("Talos (%s)", p.sys.medium.image.Version)
	own, _ := p.sys.addresses()
	for _, a := range own {
		spec.Addresses = append(spec.Addresses, a.Addr())
	}
	content := fmt.Sprintf("%+v", *spec)
	if spec.MachineType == machine.TypeControlPlane {
		spec.ControlPlane = &cluster.ControlPlane{APIServerPort: constants.DefaultControlPlanePort}
	}
	return member{id: r.Metadata().ID(), resource: r, content: content}
}

// publishCluster shows the cluster's members and this machine's part in etcd and the control plane.
func (s *system) publishCluster(members []member) {
	kept, ids := map[string]bool{}, ""
	for _, m := range members {
		kept[m.id] = true
		ids += m.id + " "
		if s.show("member "+m.id, m.content) {
			s.put(m.resource.DeepCopy())
		}
	}
	if s.show("members", ids) {
		s.keep(cluster.NewMember(cluster.NamespaceName, "").Metadata().Copy(), kept)
		s.mu.Lock()
		for name := range s.shown {
			if id, ok := strings.CutPrefix(name, "member "); ok && !kept[id] {
				delete(s.shown, name)
			}
		}
		s.mu.Unlock()
	}
	s.publishEtcd()
}

func (s *system) publishEtcd() {
	s.mu.Lock()
	up := s.etcdUp
	s.mu.Unlock()
	if !s.show("etcd", fmt.Sprint(up, s.hostname())) {
		return
	}
	members, pods := map[string]bool{}, map[string]bool{}
	if up {
		volume := s.ephemeralVolume()
		r := etcd.NewMember(etcd.NamespaceName, etcd.LocalMemberID)
		s.rack.store.with(func(snap *snapshot) {
			if v := snap.disk(volume).Volumes[constants.EphemeralPartitionLabel]; v != nil {
				r.TypedSpec().MemberID = fmt.Sprintf("%016x", v.EtcdMember)
			}
		})
		members[r.Metadata().ID()] = true
		s.put(r)
		for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
			pod := k8s.NewStaticPodStatus(k8s.NamespaceName, "kube-system/"+name+"-"+s.hostname())
			pod.TypedSpec().PodStatus = map[string]any{
				"phase":      "Running",
				"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
			}
			pods[pod.Metadata().ID()] = true
			s.put(pod)
		}
	}
	s.keep(etcd.NewMember(etcd.NamespaceName, "").Metadata().Copy(), members)
	s.keep(k8s.NewStaticPodStatus(k8s.NamespaceName, "").Metadata().Copy(), pods)
}
