package talos

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/siderolabs/talos/pkg/machinery/config"
	talosconfig "github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"

	cloudlab "cloudlab/internal/config"
)

// TestInvariants states what must hold of every node of every configuration.
func TestInvariants(t *testing.T) {
	invariants := map[string]func(*testing.T, fixture, cloudlab.Node, config.Provider){
		"encryption":       wantEncryption,
		"installer":        wantInstaller,
		"network":          wantNetwork,
		"kubernetes":       wantKubernetes,
		"control plane":    wantControlPlane,
		"talos API access": wantTalosAPIAccess,
		"names":            wantNames,
		"spegel":           wantSpegel,
		"local storage":    wantLocalStorage,
	}
	for _, f := range fixtures(t) {
		for _, node := range f.cluster.Nodes {
			provider := complete(t, f, node)
			for name, want := range invariants {
				t.Run(f.name+"/"+node.Name+"/"+name, func(t *testing.T) { want(t, f, node, provider) })
			}
		}
	}
}

func wantEncryption(t *testing.T, _ fixture, node cloudlab.Node, provider config.Provider) {
	volumes := map[string]talosconfig.EncryptionConfig{}
	for _, name := range []string{"STATE", "EPHEMERAL"} {
		volume, ok := provider.Volumes().ByName(name)
		if !ok {
			t.Fatalf("no VolumeConfig for %s", name)
		}
		volumes[name] = volume.Encryption()
	}
	for _, volume := range provider.UserVolumeConfigs() {
		volumes["user volume "+volume.Name()] = volume.Encryption()
	}
	for name, encryption := range volumes {
		if encryption == nil || encryption.Provider() != block.EncryptionProviderLUKS2 {
			t.Errorf("%s is not encrypted with LUKS2", name)
			continue
		}
		if len(encryption.Keys()) != 1 {
			t.Errorf("%s has %d keys, want the TPM's only", name, len(encryption.Keys()))
		}
		for _, key := range encryption.Keys() {
			if key.TPM() == nil || !key.TPM().CheckSecurebootOnEnroll() {
				t.Errorf("%s: key %d is not sealed to the TPM under SecureBoot", name, key.Slot())
			}
			if key.Static() != nil || key.NodeID() != nil || key.KMS() != nil {
				t.Errorf("%s: key %d can be opened without the TPM", name, key.Slot())
			}
			// STATE cannot be locked to itself.
			if locked := name != "STATE"; key.LockToSTATE() != locked {
				t.Errorf("%s: key %d locked to STATE: %t, want %t", name, key.Slot(), key.LockToSTATE(), locked)
			}
		}
	}
	if legacy := provider.Machine().SystemDiskEncryption(); legacy != nil && legacy.Get("STATE") != nil {
		t.Errorf("node %s: both VolumeConfig and systemDiskEncryption", node.Name)
	}
}

func wantInstaller(t *testing.T, f fixture, _ cloudlab.Node, provider config.Provider) {
	install := provider.Machine().Install()
	if want := f.installer(); install.Image() != want {
		t.Errorf("installer %s, want %s", install.Image(), want)
	}
	if !strings.Contains(install.Image(), "/metal-installer-secureboot/"+f.schematic()+":") {
		t.Errorf("installer %s is not the SecureBoot installer of the ISO's schematic", install.Image())
	}
	if install.Disk() != f.cluster.InstallDisk || install.Zero() {
		t.Errorf("install disk %s (wipe %t), want %s, not wiped", install.Disk(), install.Zero(), f.cluster.InstallDisk)
	}
}

func wantNetwork(t *testing.T, f fixture, node cloudlab.Node, provider config.Provider) {
	devices := provider.Machine().Network().Devices()
	if len(devices) != 1 {
		t.Fatalf("%d network devices, want 1", len(devices))
	}
	device := devices[0]
	if diff := cmp.Diff([]string{node.Address.String()}, device.Addresses()); diff != "" || device.DHCP() {
		t.Errorf("DHCP %t, addresses (-want +got):\n%s", device.DHCP(), diff)
	}
	if !slices.ContainsFunc(device.Routes(), func(r talosconfig.Route) bool { return r.Gateway() == node.Gateway.String() }) {
		t.Errorf("no route over %s", node.Gateway)
	}
	shared := ""
	if vip := device.VIPConfig(); vip != nil {
		shared = vip.IP()
	}
	want := ""
	if f.cluster.VIP.IsValid() && node.Role == cloudlab.ControlPlane {
		want = f.cluster.VIP.String()
	}
	if shared != want {
		t.Errorf("shared address %q, want %q", shared, want)
	}
	hostname := provider.NetworkHostnameConfig()
	if hostname == nil || hostname.Hostname() != node.Name || hostname.AutoHostname().String() != "off" {
		t.Errorf("hostname %+v, want %s and not automatic", hostname, node.Name)
	}
}

func wantKubernetes(t *testing.T, f fixture, node cloudlab.Node, provider config.Provider) {
	cluster, machine := provider.Cluster(), provider.Machine()
	if name := cluster.Network().CNI().Name(); name != "none" {
		t.Errorf("CNI %q, want none", name)
	}
	if cluster.Proxy().Enabled() {
		t.Error("kube-proxy is enabled")
	}
	if prism := machine.Features().KubePrism(); !prism.Enabled() || prism.Port() != 7445 {
		t.Errorf("KubePrism enabled %t on port %d, want 7445", prism.Enabled(), prism.Port())
	}
	kubelet := machine.Kubelet()
	if !kubelet.DefaultRuntimeSeccompProfileEnabled() || !kubelet.DisableManifestsDirectory() {
		t.Error("the kubelet has no default seccomp profile, or reads static pods from disk")
	}
	if diff := cmp.Diff([]string{node.Address.Masked().String()}, kubelet.NodeIP().ValidSubnets()); diff != "" {
		t.Errorf("node IP's subnets (-want +got):\n%s", diff)
	}
	if got := cluster.Endpoint().String(); got != f.cluster.Endpoint.String() {
		t.Errorf("endpoint %s, want %s", got, f.cluster.Endpoint)
	}
	if len(machine.Kubelet().ExtraArgs()) > 0 {
		t.Errorf("kubelet arguments %v: the kubelet is configured by file", machine.Kubelet().ExtraArgs())
	}
}

func wantControlPlane(t *testing.T, f fixture, node cloudlab.Node, provider config.Provider) {
	if node.Role != cloudlab.ControlPlane {
		// A worker must not learn the keys of a control plane.
		if ca := provider.Machine().Security().IssuingCA(); ca != nil && len(ca.Key) > 0 {
			t.Error("a worker has the Talos CA's key")
		}
		if provider.RawV1Alpha1().ClusterConfig.ClusterCA != nil && len(provider.RawV1Alpha1().ClusterConfig.ClusterCA.Key) > 0 {
			t.Error("a worker has the Kubernetes CA's key")
		}
		return
	}
	cluster := provider.Cluster()
	for component, args := range map[string]map[string][]string{
		"controller-manager": cluster.ControllerManager().ExtraArgs(), "scheduler": cluster.Scheduler().ExtraArgs(),
	} {
		if diff := cmp.Diff(map[string][]string{"bind-address": {"0.0.0.0"}}, args); diff != "" {
			t.Errorf("%s's arguments (-want +got):\n%s", component, diff)
		}
	}
	if diff := cmp.Diff(map[string][]string{"listen-metrics-urls": {"http://0.0.0.0:2381"}}, cluster.Etcd().ExtraArgs()); diff != "" {
		t.Errorf("etcd's arguments (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{node.Address.Masked().String()}, cluster.Etcd().AdvertisedSubnets()); diff != "" {
		t.Errorf("etcd's subnets (-want +got):\n%s", diff)
	}
	alone := !slices.ContainsFunc(f.cluster.Nodes, func(n cloudlab.Node) bool { return n.Role == cloudlab.Worker })
	if cluster.ScheduleOnControlPlanes() != alone {
		t.Errorf("pods on control planes: %t, want %t", cluster.ScheduleOnControlPlanes(), alone)
	}
	for _, name := range []string{f.cluster.Endpoint.Hostname(), node.Address.Addr().String()} {
		if !slices.Contains(cluster.CertSANs(), name) {
			t.Errorf("the API server's certificate lacks %s: %v", name, cluster.CertSANs())
		}
	}
}

func wantTalosAPIAccess(t *testing.T, _ fixture, node cloudlab.Node, provider config.Provider) {
	access := provider.Machine().Features().KubernetesTalosAPIAccess()
	if node.Role != cloudlab.ControlPlane {
		if access.Enabled() {
			t.Error("a worker lets pods reach the Talos API")
		}
		return
	}
	if diff := cmp.Diff([]string{"system-upgrade"}, access.AllowedKubernetesNamespaces()); diff != "" || !access.Enabled() {
		t.Errorf("enabled %t, namespaces (-want +got):\n%s", access.Enabled(), diff)
	}
}

func wantNames(t *testing.T, f fixture, node cloudlab.Node, provider config.Provider) {
	names := provider.Machine().Security().CertSANs()
	want := []string{node.Address.Addr().String()}
	if node.Role == cloudlab.ControlPlane && f.cluster.VIP.IsValid() {
		want = append(want, f.cluster.VIP.String())
	}
	if node.TalosEndpoint != "" {
		host, _, err := net.SplitHostPort(node.TalosEndpoint)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, host)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names of the Talos API's certificate (-want +got):\n%s", diff)
	}
}

func wantSpegel(t *testing.T, _ fixture, _ cloudlab.Node, provider config.Provider) {
	files, err := provider.Machine().Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		// A part that containerd reads, where Talos lets one be created.
		if file.Path() == "/etc/cri/conf.d/20-customization.part" && file.Op() == "create" &&
			strings.Contains(file.Content(), "discard_unpacked_layers = false") {
			return
		}
	}
	t.Error("containerd discards the layers that Spegel serves")
}

func wantLocalStorage(t *testing.T, _ fixture, node cloudlab.Node, provider config.Provider) {
	volumes := provider.UserVolumeConfigs()
	if node.DataDisk == 0 {
		if len(volumes) > 0 {
			t.Errorf("a user volume without a data disk would take space of the system disk: %v", volumes)
		}
		return
	}
	if len(volumes) != 1 || volumes[0].Name() != "local-storage" {
		t.Errorf("user volumes %v, want local-storage", volumes)
	}
}

// TestOperatorHasTheLastWord shows that patches of the configuration come last: the cluster's, then the node's.
func TestOperatorHasTheLastWord(t *testing.T) {
	f := named(t, "single-node")
	node := f.cluster.Nodes[0]
	f.cluster.Patches = []string{
		"machine: {features: {kubePrism: {port: 7000}}, sysctls: {a: cluster}}",
		"apiVersion: v1alpha1\nkind: UserVolumeConfig\nname: local-storage\n$patch: delete\n",
	}
	node.Patches = []string{"machine: {sysctls: {a: node}}"}
	patches, err := Patches(f.cluster, node, f.installer())
	if err != nil {
		t.Fatal(err)
	}
	var last []string
	for _, patch := range patches[len(patches)-3:] {
		last = append(last, patch.Name)
	}
	if diff := cmp.Diff([]string{"cluster.patches[0]", "cluster.patches[1]", "nodes.cp-1.patches[0]"}, last); diff != "" {
		t.Errorf("last patches (-want +got):\n%s", diff)
	}
	provider := complete(t, f, node)
	if port := provider.Machine().Features().KubePrism().Port(); port != 7000 {
		t.Errorf("KubePrism's port is %d, want the operator's", port)
	}
	if value := provider.Machine().Sysctls()["a"]; value != "node" {
		t.Errorf("sysctl a is %q, want the node's", value)
	}
	if volumes := provider.UserVolumeConfigs(); len(volumes) > 0 {
		t.Errorf("user volumes %v, although the operator removed them", volumes)
	}
}

func named(t *testing.T, name string) fixture {
	t.Helper()
	for _, f := range fixtures(t) {
		if f.name == name {
			return f
		}
	}
	t.Fatalf("no fixture %s", name)
	return fixture{}
}

func TestTaints(t *testing.T) {
	gpu := cloudlab.Taint{Key: "gpu", Value: "a100", Effect: "NoSchedule"}
	bare := cloudlab.Taint{Key: "dedicated", Effect: "NoExecute"}
	again := cloudlab.Taint{Key: "dedicated", Effect: "NoSchedule"}
	tests := []struct {
		name       string
		role       cloudlab.Role
		taints     []cloudlab.Taint
		kept       map[string]string
		registered []object
	}{
		{name: "none", role: cloudlab.Worker, kept: map[string]string{}},
		{
			name: "control plane", role: cloudlab.ControlPlane, taints: []cloudlab.Taint{gpu, bare},
			kept: map[string]string{"gpu": "a100:NoSchedule", "dedicated": "NoExecute"},
		},
		{
			name: "control plane, two effects of a key", role: cloudlab.ControlPlane, taints: []cloudlab.Taint{bare, again, gpu},
			kept:       map[string]string{"gpu": "a100:NoSchedule"},
			registered: []object{{"key": "dedicated", "effect": "NoExecute"}, {"key": "dedicated", "effect": "NoSchedule"}},
		},
		{
			name: "worker", role: cloudlab.Worker, taints: []cloudlab.Taint{bare, gpu}, kept: map[string]string{},
			registered: []object{{"key": "dedicated", "effect": "NoExecute"}, {"key": "gpu", "value": "a100", "effect": "NoSchedule"}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			kept, registered := taints(cloudlab.Node{Role: test.role, Taints: test.taints})
			if diff := cmp.Diff(test.kept, kept); diff != "" {
				t.Errorf("kept by Talos (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.registered, registered); diff != "" {
				t.Errorf("registered by the kubelet (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSchematic(t *testing.T) {
	text, err := Schematic([]string{"siderolabs/nfs-utils", "siderolabs/qemu-guest-agent"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `customization:
  systemExtensions:
    officialExtensions:
    - siderolabs/nfs-utils
    - siderolabs/qemu-guest-agent
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("schematic (-want +got):\n%s", diff)
	}
}
