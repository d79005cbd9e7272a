package machine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cloudlab/internal/sandbox/lan"
	"cloudlab/internal/sandbox/pve"
)

const (
	schematic   = "ce4c980550dd2ab1b17bbf2b08801c7eb59418eafe8f279833297925d67c7515"
	installer   = "factory.example.com/metal-installer-secureboot/" + schematic + ":v1.13.9"
	newer       = "factory.example.com/metal-installer-secureboot/" + schematic + ":v1.13.10"
	unsigned    = "factory.example.com/metal-installer/" + schematic + ":v1.13.9"
	secureISO   = "/iso/secureboot.iso"
	plainISO    = "/iso/plain.iso"
	agentless   = "/iso/agentless.iso"
	clusterName = "lab"
	gateway     = "192.0.2.1"
)

// lab is a rack with a network and one cluster's secrets.
type lab struct {
	t     testing.TB
	lan   *lan.LAN
	rack  *Rack
	input *generate.Input
}

func newLab(t testing.TB, change ...func(*Options)) *lab {
	t.Helper()
	network, err := lan.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = network.Close() })
	o := Options{
		LAN: network, ReadISO: readISO, Installer: pullInstaller,
		Timing: Timing{Boot: time.Millisecond, Install: 2 * time.Millisecond, BootstrapDelay: 5 * time.Millisecond, Stop: time.Millisecond},
	}
	for _, f := range change {
		f(&o)
	}
	rack, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, lan: network, rack: rack}
	t.Cleanup(func() {
		if t.Failed() {
			for _, st := range rack.Status() {
				t.Logf("%+v\n  %s", st, strings.Join(rack.Logs(st.VMID), "\n  "))
			}
		}
		_ = rack.Close()
	})
	l.input, err = sharedInput()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sharedInput makes the cluster's secrets once, since RSA keys take a second.
var sharedInput = sync.OnceValues(newInput)

func newInput() (*generate.Input, error) {
	contract, err := config.ParseContractFromVersion("v1.13")
	if err != nil {
		return nil, err
	}
	return generate.NewInput(clusterName, "https://192.0.2.11:6443", "1.36.0",
		generate.WithVersionContract(contract), generate.WithInstallImage(installer), generate.WithInstallDisk("/dev/sda"))
}

func readISO(path string) (Image, error) {
	image := Image{Schematic: schematic, Version: "v1.13.9", Extensions: []string{GuestAgent}}
	switch path {
	case secureISO:
		image.SecureBoot = true
	case plainISO:
	case agentless:
		image.SecureBoot, image.Extensions = true, nil
	default:
		return Image{}, errors.New("no such ISO")
	}
	return image, nil
}

func pullInstaller(ref string) (Image, error) {
	image := Image{Schematic: schematic, Version: "v1.13.9", SecureBoot: true, Extensions: []string{GuestAgent}}
	switch ref {
	case installer:
	case newer:
		image.Version = "v1.13.10"
	case unsigned:
		image.SecureBoot = false
	default:
		return Image{}, fmt.Errorf("%s: not found", ref)
	}
	return image, nil
}

// qemu is a SecureBoot machine as the program makes it.
func qemu(vmid int) pve.Hardware {
	return pve.Hardware{
		VMID: vmid, Node: "pve", Name: fmt.Sprintf("vm-%d", vmid), UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", vmid),
		Cores: 4, Memory: 8192, CPU: "cputype=host", UEFI: true, Agent: true,
		EFIVolume: fmt.Sprintf("local-lvm:vm-%d-disk-0", vmid), TPMVolume: fmt.Sprintf("local-lvm:vm-%d-disk-2", vmid),
		BootOrder: []string{"scsi0", "ide2"},
		Disks:     []pve.Disk{{Device: "scsi0", Volume: fmt.Sprintf("local-lvm:vm-%d-disk-1", vmid), Bytes: 32 << 30}},
		ISO:       map[string]string{"ide2": secureISO},
		NICs:      []pve.NIC{{MAC: mac(vmid), Bridge: "vmbr0"}},
	}
}

func mac(vmid int) string { return fmt.Sprintf("BC:24:11:00:00:%02X", vmid%256) }

const tpmVolumes = `
apiVersion: v1alpha1
kind: VolumeConfig
name: STATE
encryption: {provider: luks2, keys: [{slot: 0, tpm: {checkSecurebootStatusOnEnroll: true}}]}
---
apiVersion: v1alpha1
kind: VolumeConfig
name: EPHEMERAL
encryption: {provider: luks2, keys: [{slot: 0, tpm: {checkSecurebootStatusOnEnroll: true}, lockToState: true}]}
`

// config is the machine configuration of a node with the address 192.0.2.<last>.
func (l *lab) config(kind machine.Type, vmid, last int, patches ...string) []byte {
	l.t.Helper()
	cfg, err := l.input.Config(kind)
	if err != nil {
		l.t.Fatal(err)
	}
	base := fmt.Sprintf(`
machine:
  network:
    interfaces:
      - deviceSelector: {hardwareAddr: "%s"}
        addresses: [192.0.2.%d/24]
        routes: [{network: 0.0.0.0/0, gateway: %s}]
---
apiVersion: v1alpha1
kind: HostnameConfig
auto: "off"
hostname: node-%d
`, strings.ToLower(mac(vmid)), last, gateway, vmid)
	var loaded []configpatcher.Patch
	for _, p := range append([]string{base, tpmVolumes}, patches...) {
		patch, err := configpatcher.LoadPatch([]byte(p))
		if err != nil {
			l.t.Fatal(err)
		}
		loaded = append(loaded, patch)
	}
	out, err := configpatcher.Apply(configpatcher.WithConfig(cfg), loaded)
	if err != nil {
		l.t.Fatal(err)
	}
	data, err := out.Bytes()
	if err != nil {
		l.t.Fatal(err)
	}
	return data
}

// dial passes the simulated network.
func (l *lab) dial() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return l.lan.DialContext(ctx, "tcp", addr) })
}

func (l *lab) insecure(endpoint string) *client.Client {
	l.t.Helper()
	c, err := client.New(l.t.Context(), client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}), client.WithEndpoints(endpoint),
		client.WithGRPCDialOptions(l.dial()))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (l *lab) talosconfig(endpoint string) *clientconfig.Config {
	l.t.Helper()
	cfg, err := l.input.Talosconfig()
	if err != nil {
		l.t.Fatal(err)
	}
	cfg.Contexts[cfg.Context].Endpoints = []string{endpoint}
	return cfg
}

func (l *lab) secure(endpoint string) *client.Client {
	l.t.Helper()
	c, err := client.New(l.t.Context(), client.WithConfig(l.talosconfig(endpoint)), client.WithGRPCDialOptions(l.dial()))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

// eventually polls until f returns nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(3 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func (l *lab) status(vmid int) Status {
	for _, st := range l.rack.Status() {
		if st.VMID == vmid {
			return st
		}
	}
	return Status{}
}

func (l *lab) phase(vmid int, want Phase) Status {
	l.t.Helper()
	var st Status
	eventually(l.t, fmt.Sprintf("VM %d in phase %s", vmid, want), func() error {
		if st = l.status(vmid); st.Phase != want {
			return fmt.Errorf("is %s (%s)", st.Phase, st.Note)
		}
		return nil
	})
	return st
}

func (l *lab) powerOn(hw pve.Hardware) {
	l.t.Helper()
	if err := l.rack.PowerOn(hw); err != nil {
		l.t.Fatal(err)
	}
}

// agentAddress is the address that the hypervisor reads from the guest agent.
func (l *lab) agentAddress(vmid int) string {
	l.t.Helper()
	var found string
	eventually(l.t, "guest agent", func() error {
		nics, err := l.rack.Interfaces(vmid)
		if err != nil {
			return err
		}
		for _, nic := range nics {
			for _, a := range nic.Addresses {
				if p := netip.MustParsePrefix(a); nic.Name != "lo" && p.Addr().IsGlobalUnicast() && !p.Addr().IsLinkLocalUnicast() {
					found = p.Addr().String()
					return nil
				}
			}
		}
		return errors.New("no address")
	})
	return found
}

func (l *lab) apply(c *client.Client, data []byte, mode machineapi.ApplyConfigurationRequest_Mode) (*machineapi.ApplyConfiguration, error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
	defer cancel()
	resp, err := c.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{Data: data, Mode: mode})
	if err != nil {
		return nil, err
	}
	return resp.Messages[0], nil
}

// install brings a machine from power on to a configured one.
func (l *lab) install(hw pve.Hardware, data []byte) {
	l.t.Helper()
	l.powerOn(hw)
	l.phase(hw.VMID, PhaseMaintenance)
	if _, err := l.apply(l.insecure(l.agentAddress(hw.VMID)), data, applyAuto); err != nil {
		l.t.Fatal(err)
	}
}

// controlPlane installs and bootstraps a lone control plane at 192.0.2.11.
func (l *lab) controlPlane(vmid int, patches ...string) *client.Client {
	l.t.Helper()
	l.install(qemu(vmid), l.config(machine.TypeControlPlane, vmid, 11, patches...))
	l.phase(vmid, PhaseRunning)
	c := l.secure("192.0.2.11")
	l.bootstrap(c)
	eventually(l.t, "etcd", func() error { return unless(l.status(vmid).Bootstrapped, "not bootstrapped") })
	return c
}

func (l *lab) bootstrap(c *client.Client) {
	l.t.Helper()
	eventually(l.t, "bootstrap", func() error { return c.Bootstrap(l.t.Context(), &machineapi.BootstrapRequest{}) })
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v (%s), want %s with %q", err, status.Code(err), code, text)
	}
}

// bootMany installs a cluster with one control plane.
func bootMany(t testing.TB, count int) {
	l := newLab(t)
	defer func() { _ = l.rack.Close() }()
	for i := range count {
		l.powerOn(qemu(101 + i))
	}
	for i := range count {
		kind := machine.TypeWorker
		if i == 0 {
			kind = machine.TypeControlPlane
		}
		l.phase(101+i, PhaseMaintenance)
		if _, err := l.apply(l.insecure(l.agentAddress(101+i)), l.config(kind, 101+i, 11+i), applyAuto); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		l.phase(101+i, PhaseRunning)
		c := l.secure(fmt.Sprintf("192.0.2.%d", 11+i))
		eventually(t, "API", func() error { _, err := c.Version(t.Context()); return err })
	}
}
