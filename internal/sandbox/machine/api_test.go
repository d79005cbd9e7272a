package machine

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	clientconfig "github.com/siderolabs/talos/pkg/machinery/client/config"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	configres "github.com/siderolabs/talos/pkg/machinery/resources/config"
	"github.com/siderolabs/talos/pkg/machinery/resources/network"
	runtimeres "github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestMaintenanceAPI(t *testing.T) {
	l := newLab(t)
	l.powerOn(qemu(101))
	l.phase(101, PhaseMaintenance)
	c := l.insecure(l.agentAddress(101))
	ctx := t.Context()
	if _, err := c.Version(ctx); err != nil {
		t.Errorf("version: %v", err)
	}
	security, err := safe.StateGetByID[*runtimeres.SecurityState](ctx, c.COSI, runtimeres.SecurityStateID)
	if err != nil || !security.TypedSpec().SecureBoot {
		t.Errorf("securitystate: %v %v", security, err)
	}
	disks, err := safe.StateListAll[*block.Disk](ctx, c.COSI)
	if err != nil || disks.Len() != 2 {
		t.Errorf("disks: %v %v", disks.Len(), err)
	}
	// The reader's role is all that maintenance mode grants.
	for name, call := range map[string]func() error{
		"reboot":    func() error { return c.Reboot(ctx) },
		"bootstrap": func() error { return c.Bootstrap(ctx, &machineapi.BootstrapRequest{}) },
		"kubeconfig": func() error {
			_, err := c.Kubeconfig(ctx)
			return err
		},
		"reset": func() error { return c.Reset(ctx, false, true) },
		"machine config": func() error {
			_, err := safe.StateListAll[*configres.MachineConfig](ctx, c.COSI)
			return err
		},
	} {
		if err := call(); client.StatusCode(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Routing metadata is ignored.
	if _, err := c.Version(client.WithNode(ctx, "192.0.2.77")); err != nil {
		t.Errorf("node metadata: %v", err)
	}
}

func TestApplyIsRefused(t *testing.T) {
	l := newLab(t)
	l.powerOn(qemu(101))
	l.phase(101, PhaseMaintenance)
	c := l.insecure(l.agentAddress(101))
	good := string(l.config(machine.TypeControlPlane, 101, 11))
	for _, test := range []struct{ name, data, text string }{
		{"not YAML", "machine: [", ""},
		{"unknown key", good + "\n---\napiVersion: v1alpha1\nkind: HostnameConfigs\n", "not registered"},
		{"no install disk", strings.Replace(good, "disk: /dev/sda", "diskSelector: {serial: none}", 1), "no disks matched the expression"},
		{"no machine CA", regexpReplace(good), "issuing CA is required"},
		{"kubernetes too new", strings.ReplaceAll(good, ":v1.36.0", ":v1.99.0"), "is too new to be used with Talos"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := l.apply(c, []byte(test.data), applyAuto)
			wantCode(t, err, codes.InvalidArgument, test.text)
		})
	}
	l.phase(101, PhaseMaintenance)

	dry, err := c.ApplyConfiguration(t.Context(), &machineapi.ApplyConfigurationRequest{Data: []byte(good), Mode: applyAuto, DryRun: true})
	if err != nil || dry.Messages[0].Mode != applyNoReboot || !strings.HasPrefix(dry.Messages[0].ModeDetails, "Dry run summary:") {
		t.Errorf("dry run: %v %v", dry, err)
	}
	l.phase(101, PhaseMaintenance)

	sys := l.rack.guest(101).system()
	sys.apply.Lock()
	_, err = l.apply(c, []byte(good), applyAuto)
	wantCode(t, err, codes.FailedPrecondition, "another apply configuration is already in progress")
	sys.apply.Unlock()

	// A document without the machine section is taken, and the machine goes on waiting.
	partial := "apiVersion: v1alpha1\nkind: HostnameConfig\nauto: \"off\"\nhostname: early\n"
	if _, err := l.apply(c, []byte(partial), applyAuto); err != nil {
		t.Fatal(err)
	}
	if st := l.phase(101, PhaseMaintenance); st.Hostname != "early" {
		t.Errorf("host name %q", st.Hostname)
	}
}

// regexpReplace drops the key of .machine.ca.
func regexpReplace(cfg string) string {
	lines := strings.Split(cfg, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "    ca:") {
			return strings.Join(slices.Delete(lines, i, i+3), "\n")
		}
	}
	return cfg
}

func TestApplyModes(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	id := bootID(t, admin)
	labels := l.config(machine.TypeControlPlane, 101, 11, "machine: {nodeLabels: {rack: a}}")
	answer, err := l.apply(admin, labels, applyAuto)
	if err != nil || answer.Mode != applyNoReboot {
		t.Fatalf("labels: %v %v", answer, err)
	}
	if bootID(t, admin) != id {
		t.Error("labels reboot the machine")
	}
	rebooting := l.config(machine.TypeControlPlane, 101, 11, "machine: {env: {GRPC_GO_LOG_SEVERITY_LEVEL: info}}")
	_, err = l.apply(admin, rebooting, applyNoReboot)
	wantCode(t, err, codes.InvalidArgument, "this config change can't be applied in immediate mode")
	answer, err = l.apply(admin, rebooting, applyStaged)
	if err != nil || answer.Mode != applyStaged || bootID(t, admin) != id {
		t.Fatalf("staged: %v %v", answer, err)
	}
	answer, err = l.apply(admin, rebooting, applyAuto)
	if err != nil || answer.Mode != applyReboot || !strings.Contains(answer.ModeDetails, "env") {
		t.Fatalf("auto: %v %v", answer, err)
	}
	eventually(t, "reboot", func() error {
		now := bootID(t, admin)
		return unless(now != "" && now != id, "same boot")
	})
	l.phase(101, PhaseRunning)
	cfg, err := safe.StateGetByID[*configres.MachineConfig](t.Context(), admin.COSI, configres.ActiveID)
	if err != nil || cfg.Config().Environment() == nil {
		t.Errorf("the new configuration is lost: %v", err)
	}

	_, err = admin.ApplyConfiguration(t.Context(), &machineapi.ApplyConfigurationRequest{Data: []byte("kind: nonsense")})
	if err == nil {
		t.Error("nonsense is taken")
	}
}

func TestTryModeRollsBack(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	renamed := l.config(machine.TypeControlPlane, 101, 11, "apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: tried\n")
	_, err := admin.ApplyConfiguration(t.Context(), &machineapi.ApplyConfigurationRequest{
		Data: renamed, Mode: applyTry, TryModeTimeout: durationpb.New(time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.status(101).Hostname; got != "tried" {
		t.Errorf("host name %q", got)
	}
	eventually(t, "rollback", func() error { return unless(l.status(101).Hostname == "node-101", l.status(101).Hostname) })
}

func TestAddressMoves(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	if _, err := l.apply(admin, l.config(machine.TypeControlPlane, 101, 12), applyAuto); err != nil {
		t.Fatal(err)
	}
	if _, err := l.secure("192.0.2.12").Version(t.Context()); err != nil {
		t.Errorf("new address: %v", err)
	}
	if _, err := l.lan.DialContext(t.Context(), "tcp", "192.0.2.11:50000"); err == nil {
		t.Error("the old address answers")
	}
}

func TestRoles(t *testing.T) {
	l := newLab(t)
	l.controlPlane(101)
	as := func(roles ...role.Role) *client.Client {
		cert, err := l.input.Options.SecretsBundle.GenerateTalosAPIClientCertificate(role.MakeSet(roles...))
		if err != nil {
			t.Fatal(err)
		}
		cfg := l.talosconfig("192.0.2.11")
		cfg.Contexts[cfg.Context] = clientconfig.NewConfig("x", []string{"192.0.2.11"}, l.input.Options.SecretsBundle.Certs.OS.Crt, cert).Contexts["x"]
		c, err := client.New(t.Context(), client.WithConfig(cfg), client.WithGRPCDialOptions(l.dial()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	reader, operator, none := as(role.Reader), as(role.Operator), as()
	for _, test := range []struct {
		name  string
		call  func(*client.Client) error
		allow []*client.Client
	}{
		{"version", func(c *client.Client) error { _, err := c.Version(t.Context()); return err }, []*client.Client{reader, operator}},
		{"kubeconfig", func(c *client.Client) error { _, err := c.Kubeconfig(t.Context()); return err }, nil},
		{"members", func(c *client.Client) error {
			_, err := safe.StateListAll[*cluster.Member](t.Context(), c.COSI)
			return err
		}, []*client.Client{reader, operator}},
		{"machine config", func(c *client.Client) error {
			_, err := safe.StateListAll[*configres.MachineConfig](t.Context(), c.COSI)
			return err
		}, nil},
		{"apply", func(c *client.Client) error {
			_, err := l.apply(c, l.config(machine.TypeControlPlane, 101, 11), applyAuto)
			return err
		}, nil},
		{"service restart", func(c *client.Client) error {
			_, err := c.ServiceRestart(t.Context(), "kubelet")
			return err
		}, []*client.Client{operator}},
	} {
		for name, c := range map[string]*client.Client{"reader": reader, "operator": operator, "none": none} {
			err := test.call(c)
			if slices.Contains(test.allow, c) {
				if err != nil {
					t.Errorf("%s as %s: %v", test.name, name, err)
				}
			} else if client.StatusCode(err) != codes.PermissionDenied {
				t.Errorf("%s as %s: %v, want PermissionDenied", test.name, name, err)
			}
		}
	}
}

func TestServerCertificate(t *testing.T) {
	l := newLab(t)
	l.controlPlane(101, "machine: {certSANs: [talos.example.com, 198.51.100.7]}")
	cfg := l.talosconfig("192.0.2.11").Contexts[clusterName]
	pool := x509.NewCertPool()
	ca, err := base64.StdEncoding.DecodeString(cfg.CA)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	conn, err := l.lan.DialContext(t.Context(), "tcp", "192.0.2.11:50000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// A server that asks for a certificate still shows its own first.
	session := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "192.0.2.11", NextProtos: []string{"h2"}})
	_ = session.HandshakeContext(t.Context())
	chain := session.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		t.Fatal("no certificate")
	}
	for _, name := range []string{"192.0.2.11", "127.0.0.1", "talos.example.com", "198.51.100.7", "node-101"} {
		if err := chain[0].VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if len(chain[0].Subject.Organization) != 0 {
		t.Errorf("the server certificate has roles: %v", chain[0].Subject)
	}
}

func TestForeignClientIsRefused(t *testing.T) {
	l := newLab(t)
	l.controlPlane(101)
	other, err := newInput()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := other.Talosconfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Contexts[cfg.Context].Endpoints = []string{"192.0.2.11"}
	cfg.Contexts[cfg.Context].CA = l.talosconfig("x").Contexts[clusterName].CA
	c, err := client.New(t.Context(), client.WithConfig(cfg), client.WithGRPCDialOptions(l.dial()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := c.Version(ctx); err == nil {
		t.Error("a client of another CA is let in")
	}
}

func TestResources(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	ctx := t.Context()
	definitions, err := safe.StateListAll[*meta.ResourceDefinition](ctx, admin.COSI)
	if err != nil || definitions.Len() < 90 {
		t.Errorf("definitions: %d %v", definitions.Len(), err)
	}
	eventually(t, "ready", func() error {
		st, err := safe.StateGetByID[*runtimeres.MachineStatus](ctx, admin.COSI, runtimeres.MachineStatusID)
		if err != nil {
			return err
		}
		return unless(st.TypedSpec().Status.Ready && st.TypedSpec().Stage == runtimeres.MachineStageRunning, "not ready")
	})
	for _, id := range []string{"META", "STATE", "EPHEMERAL"} {
		v, err := safe.StateGetByID[*block.VolumeStatus](ctx, admin.COSI, id)
		if err != nil || v.TypedSpec().Phase != block.VolumePhaseReady {
			t.Errorf("%s: %v %v", id, v, err)
			continue
		}
		if encrypted := v.TypedSpec().EncryptionProvider == block.EncryptionProviderLUKS2; encrypted != (id != "META") {
			t.Errorf("%s encrypted: %t", id, encrypted)
		}
	}
	addresses, err := safe.StateGetByID[*network.NodeAddress](ctx, admin.COSI, network.NodeAddressCurrentID)
	if err != nil || len(addresses.TypedSpec().Addresses) != 1 {
		t.Errorf("addresses: %v %v", addresses, err)
	}
	if err := admin.COSI.Destroy(ctx, addresses.Metadata()); err == nil || !strings.Contains(err.Error(), "write access is not allowed") {
		t.Errorf("write: %v", err)
	}
	services, err := admin.ServiceList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range services.Messages[0].Services {
		names = append(names, s.Id)
	}
	for _, want := range []string{"apid", "etcd", "kubelet", "trustd", "ext-qemu-guest-agent"} {
		if !slices.Contains(names, want) {
			t.Errorf("no service %s in %v", want, names)
		}
	}
	_, err = admin.Processes(ctx)
	wantCode(t, err, codes.Unimplemented, "")
}

// TestApplyThroughNode renews the certificate during the very call that is routed with the old one.
func TestApplyThroughNode(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	for _, san := range []string{"a.example.com", "b.example.com"} {
		resp, err := admin.ApplyConfiguration(client.WithNode(t.Context(), "192.0.2.11"), &machineapi.ApplyConfigurationRequest{
			Data: l.config(machine.TypeControlPlane, 101, 11, "machine: {certSANs: ["+san+"]}"), Mode: applyAuto,
		})
		if err != nil || resp.Messages[0].Mode != applyNoReboot {
			t.Errorf("%s: %v %v", san, resp, err)
		}
	}
}

func TestImmediateFieldsExist(t *testing.T) {
	for of, names := range map[reflect.Type][]string{
		reflect.TypeFor[v1alpha1.MachineConfig]():  immediateFields(),
		reflect.TypeFor[v1alpha1.FeaturesConfig](): immediateFeatures(),
	} {
		for _, name := range names {
			if _, ok := of.FieldByName(name); !ok {
				t.Errorf("%s has no field %s", of, name)
			}
		}
	}
}
