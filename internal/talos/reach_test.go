package talos

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/role"

	cloudlab "cloudlab/internal/config"
	"cloudlab/internal/sandbox/lan"
	simulated "cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/pve"
)

const (
	static        = "192.0.2.11" // the address of the fixture's node
	bootstrapCall = "/machine.MachineService/Bootstrap"
)

// lab is a machine on a simulated network that this process' proxy variable leads to.
type lab struct {
	t    *testing.T
	lan  *lan.LAN
	rack *simulated.Rack
	f    fixture
	node cloudlab.Node
	// leased is where the machine is in maintenance mode.
	leased string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	network, err := lan.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = network.Close() })
	image := simulated.Image{Schematic: testSchematic, Version: "v1.13.9", SecureBoot: true, Extensions: []string{simulated.GuestAgent}}
	rack, err := simulated.New(simulated.Options{
		LAN:       network,
		ReadISO:   func(string) (simulated.Image, error) { return image, nil },
		Installer: func(string) (simulated.Image, error) { return image, nil },
		Timing:    simulated.Timing{Boot: time.Millisecond, Install: time.Millisecond, BootstrapDelay: time.Millisecond, Stop: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rack.Close() })
	t.Setenv("HTTPS_PROXY", network.ProxyURL())
	t.Setenv("NO_PROXY", "127.0.0.1,localhost")
	f := named(t, "single-node")
	return &lab{t: t, lan: network, rack: rack, f: f, node: f.cluster.Nodes[0]}
}

// powerOn boots the node's machine from the ISO into maintenance mode.
func (l *lab) powerOn() {
	l.t.Helper()
	err := l.rack.PowerOn(pve.Hardware{
		VMID: l.node.VMID, Node: "pve", Name: l.node.Name, UUID: "00000000-0000-4000-8000-000000000101", Cores: 4, Memory: 8192,
		CPU: "cputype=host", UEFI: true, Agent: true, EFIVolume: "efi", TPMVolume: "tpm", BootOrder: []string{"scsi0", "ide2"},
		Disks: []pve.Disk{{Device: "scsi0", Volume: "system", Bytes: 50 << 30}, {Device: "scsi1", Volume: "data", Bytes: 100 << 30}},
		ISO:   map[string]string{"ide2": "/iso"}, NICs: []pve.NIC{{MAC: l.node.MAC, Bridge: "vmbr0"}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); l.leased == ""; time.Sleep(5 * time.Millisecond) {
		l.leased = l.agentAddress()
		if time.Now().After(deadline) {
			l.t.Fatalf("the guest agent reports no address: %+v", l.rack.Status())
		}
	}
	l.await(l.leased)
}

// agentAddress is what the guest agent reports, if anything.
func (l *lab) agentAddress() string {
	interfaces, _ := l.rack.Interfaces(l.node.VMID)
	for _, device := range interfaces {
		for _, text := range device.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil && device.Name != "lo" && prefix.Addr().IsGlobalUnicast() {
				return prefix.Addr().String()
			}
		}
	}
	return ""
}

// await waits until a Talos API answers at an address.
func (l *lab) await(address string) {
	l.t.Helper()
	if _, ok := firstReachable(l.t.Context(), []string{endpoint(address)}, 20*time.Second); !ok {
		l.t.Fatalf("no Talos API at %s: %+v", address, l.rack.Status())
	}
}

func (l *lab) config() []byte {
	l.t.Helper()
	raw, err := complete(l.t, l.f, l.node).Bytes()
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

// install brings the machine up, configured but not bootstrapped.
func (l *lab) install() {
	l.t.Helper()
	l.powerOn()
	c, err := client.New(l.t.Context(), client.WithDefaultGRPCDialOptions(), client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}),
		client.WithEndpoints(endpoint(l.leased)))
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // read only
	_, err = c.ApplyConfiguration(l.t.Context(), &machineapi.ApplyConfigurationRequest{Data: l.config(), Mode: machineapi.ApplyConfigurationRequest_AUTO})
	if err != nil {
		l.t.Fatal(err)
	}
	l.await(static)
}

// inputs are a resource's inputs as a hook sees them: secrets wrapped.
func (l *lab) inputs() resource.PropertyMap {
	l.t.Helper()
	bundle, err := throwAway()
	if err != nil {
		l.t.Fatal(err)
	}
	admin, err := bundle.GenerateTalosAPIClientCertificate(role.MakeSet(role.Admin))
	if err != nil {
		l.t.Fatal(err)
	}
	encoded := func(raw []byte) resource.PropertyValue {
		return resource.MakeSecret(resource.NewProperty(base64.StdEncoding.EncodeToString(raw)))
	}
	return resource.PropertyMap{
		"endpoint": resource.NewProperty(endpoint(static)), "node": resource.NewProperty(static),
		"machineConfigurationInput": resource.MakeSecret(resource.NewProperty(string(l.config()))),
		"clientConfiguration": resource.MakeSecret(resource.NewProperty(resource.PropertyMap{
			"caCertificate": encoded(bundle.Certs.OS.Crt), "clientCertificate": encoded(admin.Crt), "clientKey": encoded(admin.Key),
		})),
	}
}

func (l *lab) credentials() *tls.Config {
	l.t.Helper()
	trust, err := credentials(plain(l.inputs()["clientConfiguration"]))
	if err != nil {
		l.t.Fatal(err)
	}
	return trust
}

func (l *lab) fault(f simulated.Fault) {
	l.t.Helper()
	if _, err := l.rack.AddFault(f); err != nil {
		l.t.Fatal(err)
	}
}

func TestFirstReachable(t *testing.T) {
	l := newLab(t)
	l.powerOn()
	there, gone := endpoint(l.leased), endpoint("192.0.2.77")
	tests := []struct {
		name      string
		endpoints []string
		want      string
	}{
		{"the only one", []string{there}, there},
		{"the first does not answer", []string{gone, there}, there},
		{"the last does not answer", []string{there, gone}, there},
		{"nobody", []string{gone}, ""},
		{"none", nil, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			began := time.Now()
			got, ok := firstReachable(t.Context(), test.endpoints, 600*time.Millisecond)
			if got != test.want || ok != (test.want != "") {
				t.Errorf("got %q, %t, want %q", got, ok, test.want)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
	t.Run("the first wins when both answer", func(t *testing.T) {
		listener, err := l.lan.Listen(gone)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() //nolint:errcheck // the test ends
		go forward(listener, func() (net.Conn, error) { return l.lan.DialContext(t.Context(), "tcp", there) })
		for _, order := range [][]string{{gone, there}, {there, gone}} {
			if got, _ := firstReachable(t.Context(), order, 5*time.Second); got != order[0] {
				t.Errorf("of %v got %s", order, got)
			}
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got, ok := firstReachable(ctx, []string{gone}, time.Minute); ok {
			t.Errorf("got %s", got)
		}
	})
}

// forward makes one more address for a machine.
func forward(listener net.Listener, dial func() (net.Conn, error)) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		to, err := dial()
		if err != nil {
			_ = from.Close()
			continue
		}
		copyTo := func(a, b net.Conn) {
			buffer := make([]byte, 4096)
			for {
				n, err := b.Read(buffer)
				if _, writeErr := a.Write(buffer[:n]); err != nil || writeErr != nil {
					_, _ = a.Close(), b.Close()
					return
				}
			}
		}
		go copyTo(from, to)
		go copyTo(to, from)
	}
}

func TestProbe(t *testing.T) {
	l := newLab(t)
	probe := func(addresses ...string) [2]bool {
		answers, waits := Probe(t.Context(), addresses)
		return [2]bool{answers, waits}
	}
	if got := probe(static); got != [2]bool{false, false} {
		t.Errorf("a machine that is off: answers, waits %v", got)
	}
	l.powerOn()
	leased := l.leased
	for _, addresses := range [][]string{{leased}, {"fe80::1", "127.0.0.1", "", "x", leased}, {"192.0.2.77", leased}} {
		if got := probe(addresses...); got != [2]bool{true, true} {
			t.Errorf("in maintenance mode at %v: answers, waits %v", addresses, got)
		}
	}
	if got := probe(); got != [2]bool{false, false} {
		t.Errorf("no address: answers, waits %v", got)
	}
	l2 := newLab(t)
	l2.install()
	if got := probe(static); got != [2]bool{true, false} {
		t.Errorf("configured: answers, waits %v; true would permit a removal", got)
	}
	// A fault must not make a configured machine look like a new one.
	l2.fault(simulated.Fault{Drop: true})
	if got := probe(static); got[1] {
		t.Errorf("configured, dropping connections: answers, waits %v", got)
	}
}

func TestBootstrap(t *testing.T) {
	tests := []struct {
		name  string
		fault *simulated.Fault
		want  []string // words of the error
	}{
		{name: "accepted"},
		{name: "not yet", fault: &simulated.Fault{Method: bootstrapCall, Code: "FAILED_PRECONDITION", Message: "bootstrap is not available yet", Times: 2}},
		{name: "unavailable for a moment", fault: &simulated.Fault{Method: bootstrapCall, Code: "UNAVAILABLE", Message: "starting", Times: 1}},
		{name: "connection lost", fault: &simulated.Fault{Method: bootstrapCall, Drop: true, Times: 1}},
		{
			name: "bootstrapped already", fault: &simulated.Fault{Method: bootstrapCall, Code: "ALREADY_EXISTS", Message: "etcd data directory is not empty"},
		},
		{
			name: "refused", fault: &simulated.Fault{Method: bootstrapCall, Code: "INVALID_ARGUMENT", Message: "no such thing"},
			want: []string{"bootstrap " + endpoint(static), "refused", "no such thing"},
		},
		{
			name: "not allowed", fault: &simulated.Fault{Method: bootstrapCall, Code: "PERMISSION_DENIED", Message: "not authorized"},
			want: []string{"refused", "not authorized"},
		},
		{
			name: "never", fault: &simulated.Fault{Method: bootstrapCall, Code: "FAILED_PRECONDITION", Message: "time is not in sync yet"},
			want: []string{"bootstrap " + endpoint(static), "not accepted in time", "time is not in sync yet"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			l.install()
			if test.fault != nil {
				l.fault(*test.fault)
			}
			limit := 20 * time.Second
			if test.name == "never" {
				limit = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			err := bootstrap(ctx, static, endpoint(static), l.credentials())
			if len(test.want) == 0 && err != nil {
				t.Errorf("error %v", err)
			}
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestBootstrapHook(t *testing.T) {
	l := newLab(t)
	l.install()
	args := &pulumi.ResourceHookArgs{Name: "cloudlab", NewInputs: l.inputs()}
	// The second time is the run after one that died before it was recorded.
	for range 2 {
		if err := bootstrapFirst(args); err != nil {
			t.Fatal(err)
		}
	}
	if st := l.rack.Status(); len(st) != 1 || !st[0].Bootstrapped {
		t.Errorf("machines %+v", st)
	}
	for name, spoil := range map[string]func(resource.PropertyMap){
		"endpoint must be known":             func(m resource.PropertyMap) { delete(m, "endpoint") },
		"node must be known":                 func(m resource.PropertyMap) { m["node"] = resource.MakeComputed(resource.NewProperty("")) },
		"client configuration must be known": func(m resource.PropertyMap) { delete(m, "clientConfiguration") },
		"clientKey must be known": func(m resource.PropertyMap) {
			delete(plain(m["clientConfiguration"]).ObjectValue(), "clientKey")
		},
		"no CA certificate": func(m resource.PropertyMap) {
			plain(m["clientConfiguration"]).ObjectValue()["caCertificate"] = resource.NewProperty("")
		},
		"illegal base64": func(m resource.PropertyMap) {
			plain(m["clientConfiguration"]).ObjectValue()["clientCertificate"] = resource.NewProperty("%")
		},
	} {
		inputs := l.inputs()
		spoil(inputs)
		err := bootstrapFirst(&pulumi.ResourceHookArgs{Name: "cloudlab", NewInputs: inputs})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}

// TestRehearseHook: a config that Talos refuses is refused before the provider would try it again and again.
func TestRehearseHook(t *testing.T) {
	l := newLab(t)
	l.powerOn()
	first := l.inputs()
	first["endpoint"] = resource.NewProperty(endpoint(l.leased))
	if err := (rehearsal{wait: reachWait}).beforeApply(&pulumi.ResourceHookArgs{Name: "cp-1-install", NewInputs: first}); err != nil {
		t.Errorf("in maintenance mode: %v", err)
	}
	if phase := l.rack.Status()[0].Phase; phase != simulated.PhaseMaintenance {
		t.Errorf("the rehearsal changed the machine: %s", phase)
	}
	first["machineConfigurationInput"] = resource.NewProperty(strings.Replace(string(l.config()), "- 192.0.2.11/24", "- 192.0.2.500/24", 1))
	err := (rehearsal{wait: reachWait}).beforeApply(&pulumi.ResourceHookArgs{Name: "cp-1-install", NewInputs: first})
	for _, want := range []string{"cp-1-install", endpoint(l.leased), "refused", "192.0.2.500"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	if bundle, bundleErr := throwAway(); bundleErr != nil || strings.Contains(fmt.Sprint(err), bundle.TrustdInfo.Token) {
		t.Errorf("the error shows a secret (%v)", bundleErr)
	}

	l = newLab(t)
	l.install()
	if err := (rehearsal{wait: reachWait}).beforeApply(&pulumi.ResourceHookArgs{Name: "cp-1-configure", NewInputs: l.inputs()}); err != nil {
		t.Errorf("configured: %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.11": "192.0.2.11:50000", "2001:db8::11": "[2001:db8::11]:50000", "192.0.2.11:50011": "192.0.2.11:50011",
		"forward.example.com:50012": "forward.example.com:50012", "[2001:db8::11]:50011": "[2001:db8::11]:50011",
	} {
		if got := endpoint(address); got != want {
			t.Errorf("endpoint(%s) = %s, want %s", address, got, want)
		}
	}
	f := named(t, "port-forwarding")
	var steady, clients []string
	for _, node := range f.cluster.Nodes {
		steady = append(steady, steadyEndpoint(node))
		clients = append(clients, clientEndpoint(node))
	}
	if diff := cmp.Diff([]string{"127.0.0.1:50011", "forward.example.com:50012", "192.0.2.13:50000"}, steady); diff != "" {
		t.Errorf("of nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:50011", "forward.example.com:50012", "192.0.2.13"}, clients); diff != "" {
		t.Errorf("in a talosconfig (-want +got):\n%s", diff)
	}
}
