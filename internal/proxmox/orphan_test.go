package proxmox

import (
	"context"
	stdx509 "crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/luthermonson/go-proxmox"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/siderolabs/crypto/x509"

	"cloudlab/internal/config"
	"cloudlab/internal/sandbox/pve"
)

const (
	testToken = "cloudlab@pve!test"
	testOwner = "0123456789ab"
	testVM    = 101
)

// machines have power, but no operating system.
type machines struct {
	mu sync.Mutex
	on map[int]bool
}

func (m *machines) PowerOn(hw pve.Hardware) error { m.set(hw.VMID, true); return nil }
func (m *machines) PowerOff(vmid int)             { m.set(vmid, false) }
func (m *machines) Destroy(int)                   {}

func (m *machines) Shutdown(_ context.Context, vmid int) error { m.set(vmid, false); return nil }

func (m *machines) Interfaces(int) ([]pve.Interface, error) {
	return []pve.Interface{{Name: "eth0", MAC: "BC:24:11:00:00:01", Addresses: []string{"192.0.2.100/24"}}}, nil
}

func (m *machines) set(vmid int, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on[vmid] = on
}

// lab is a simulated Proxmox and the program's view of it.
type lab struct {
	*Orphans
	t       *testing.T
	proxmox *pve.Server

	mu     sync.Mutex
	probed [][]string
	logs   []string
	// What the probe says.
	answers, unconfigured bool
}

func newLab(t *testing.T) *lab {
	t.Helper()
	secret := strings.Repeat("0", 8) + "-1a2b-3c4d-5e6f-" + strings.Repeat("7", 12)
	server, err := pve.New(pve.Options{
		Guests: &machines{on: map[int]bool{}}, Dir: t.TempDir(),
		Tokens: map[string]pve.Token{testToken: pve.Grant(secret, pve.MinimalRole()...)},
	})
	if err != nil {
		t.Fatal(err)
	}
	endpoint, caFile := serve(t, server)
	l := &lab{t: t, proxmox: server}
	settings := config.Proxmox{Endpoint: endpoint, TLS: config.TLS{CAFile: caFile}}
	l.Orphans, err = NewOrphans(settings, testToken+"="+secret, l.probeMachine, l.log)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func serve(t *testing.T, server *pve.Server) (endpoint *url.URL, caFile string) {
	t.Helper()
	ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := x509.NewKeyPair(ca, x509.ECDSA(true), x509.IPAddresses([]net.IP{net.IPv4(127, 0, 0, 1)}),
		x509.NotAfter(time.Now().Add(time.Hour)), x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener, *pair.Certificate) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca.CrtPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return &url.URL{Scheme: "https", Host: listener.Addr().String()}, caFile
}

func (l *lab) probeMachine(_ context.Context, addresses []string) (answers, unconfigured bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probed = append(l.probed, addresses)
	return l.answers, l.unconfigured
}

func (l *lab) log(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs = append(l.logs, fmt.Sprintf(format, args...))
}

// create makes a machine as an interrupted run leaves it.
func (l *lab) create(description string, running bool) {
	l.t.Helper()
	var upid api.UPID
	options := map[string]any{
		"vmid": testVM, "name": "cp-1", "memory": 2048, "cores": 2, "agent": "1", "description": description, "scsi0": "local-lvm:4",
		"scsihw": "virtio-scsi-pci", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
	}
	if err := l.client.Post(l.t.Context(), "/nodes/pve/qemu", options, &upid); err != nil {
		l.t.Fatal(err)
	}
	l.wait(upid)
	if running {
		if err := l.client.Post(l.t.Context(), "/nodes/pve/qemu/101/status/start", nil, &upid); err != nil {
			l.t.Fatal(err)
		}
		l.wait(upid)
	}
}

func (l *lab) wait(upid api.UPID) {
	l.t.Helper()
	task := api.NewTask(upid, l.client)
	if err := task.Wait(l.t.Context(), 5*time.Millisecond, 10*time.Second); err != nil || task.IsFailed {
		l.t.Fatalf("task %s: %v %s", upid, err, task.ExitStatus)
	}
}

func (l *lab) fault(f pve.Fault) {
	l.t.Helper()
	if _, err := l.proxmox.AddFault(f); err != nil {
		l.t.Fatal(err)
	}
}

// inventory is what is left of machines and their disks.
func (l *lab) inventory() int {
	inventory := l.proxmox.Inventory()
	return len(inventory.Machines) + len(inventory.Volumes)
}

func TestOrphans(t *testing.T) {
	const own = "Talos node. Managed by Cloudlab: cloudlab-owner=" + testOwner
	late := func(l *lab) { l.now = func() time.Time { return time.Now().Add(2 * orphanAge) } }
	says := func(answers, unconfigured bool) func(*lab) {
		return func(l *lab) { l.answers, l.unconfigured = answers, unconfigured }
	}
	both := func(all ...func(*lab)) func(*lab) {
		return func(l *lab) {
			for _, f := range all {
				f(l)
			}
		}
	}
	add := func(f pve.Fault) func(*lab) { return func(l *lab) { l.fault(f) } }
	const remove = "/nodes/*/qemu/101"
	tests := []struct {
		name        string
		description string // no machine when empty
		running     bool
		setup       func(*lab)
		removed     bool
		want        []string // words of the error; none for success
		log         string
	}{
		{name: "nothing there"},
		{name: "just made", description: own, removed: true, log: "left behind without data"},
		{name: "waits for its first config", description: own, running: true, setup: says(true, true), removed: true},
		{name: "waits for its first config, long since", description: own, running: true, setup: both(late, says(true, true)), removed: true},
		{name: "somebody else's", description: "my files", want: []string{"does not belong to this stack", `node "cp-1"`, "another vmId"}},
		{name: "another incarnation's", description: "cloudlab-owner=ba9876543210", running: true, setup: says(true, true), want: []string{"does not belong"}},
		{name: "no description", description: " ", want: []string{"does not belong"}},
		{name: "stopped for long", description: own, setup: late, want: []string{"may hold data", "pulumi import", "cp-1 pve/101"}},
		{name: "configured", description: own, running: true, setup: says(true, false), want: []string{"may hold data"}},
		{name: "silent for long", description: own, running: true, setup: late, want: []string{"may hold data"}},
		{name: "silent", description: own, running: true, want: []string{"cannot be judged", "does not answer", "console"}, log: "waiting up to"},
		{
			name: "status is not told at first", description: own, removed: true,
			setup: add(pve.Fault{Path: "/nodes/*/qemu/101/status/current", Status: 500, Times: 1}),
		},
		{
			name: "removal fails at first", description: own, removed: true,
			setup: add(pve.Fault{Method: "DELETE", Path: remove, TaskExit: "storage is busy", Times: 1}),
		},
		{
			name: "removal fails", description: own, want: []string{"cannot be judged", "could not be removed", "storage is busy"},
			setup: add(pve.Fault{Method: "DELETE", Path: remove, TaskExit: "storage is busy"}),
		},
		{
			name: "stop fails", description: own, running: true, want: []string{"could not be stopped"},
			setup: both(says(true, true), add(pve.Fault{Path: "/nodes/*/qemu/101/status/stop", TaskExit: "stuck"})),
		},
		{
			name: "Proxmox does not answer", description: own, log: "could not look for VM 101",
			setup: add(pve.Fault{Path: "/nodes/*/qemu/101/config", Status: 503}),
		},
		{
			name: "connection is dropped", description: own, log: "could not look for VM 101",
			setup: add(pve.Fault{Path: "/nodes/*/qemu/101/config", Drop: "before"}),
		},
		{name: "token is revoked", description: own, log: "could not look for VM 101", setup: func(l *lab) {
			if err := l.proxmox.SetTokenRevoked(testToken, true); err != nil {
				l.t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if test.description != "" {
				l.create(test.description, test.running)
			}
			before := l.inventory()
			if test.setup != nil {
				test.setup(l)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			err := l.clear(ctx, "cp-1", orphan{node: "pve", vmid: testVM, owner: testOwner})
			if len(test.want) == 0 && err != nil {
				t.Errorf("error %v", err)
			}
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			if after := l.inventory(); test.removed && after != 0 || !test.removed && after != before {
				t.Errorf("removed %t: %d machines and volumes before, %d after", test.removed, before, after)
			}
			if test.log != "" && !slices.ContainsFunc(l.logs, func(line string) bool { return strings.Contains(line, test.log) }) {
				t.Errorf("log %q lacks %q", l.logs, test.log)
			}
		})
	}
}

// TestOrphanIsProbedWhereItsAgentSays: a probe of nothing would call every machine silent.
func TestOrphanIsProbedWhereItsAgentSays(t *testing.T) {
	l := newLab(t)
	l.create("cloudlab-owner="+testOwner, true)
	l.answers, l.unconfigured = true, true
	if err := l.clear(t.Context(), "cp-1", orphan{node: "pve", vmid: testVM, owner: testOwner}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"192.0.2.100"}}, l.probed); diff != "" {
		t.Errorf("probed addresses (-want +got):\n%s", diff)
	}
}

// TestOrphanStillBeingCreated: a plugin may outlive its engine.
func TestOrphanStillBeingCreated(t *testing.T) {
	l := newLab(t)
	l.fault(pve.Fault{Method: "POST", Path: "/nodes/*/qemu", TaskDelay: pve.Duration(400 * time.Millisecond)})
	created := make(chan struct{})
	go func() {
		defer close(created)
		l.create("cloudlab-owner="+testOwner, false)
	}()
	for len(l.proxmox.Inventory().Machines) == 0 {
		select {
		case <-created:
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := l.clear(t.Context(), "cp-1", orphan{node: "pve", vmid: testVM, owner: testOwner}); err != nil {
		t.Fatal(err)
	}
	<-created
	if left := l.inventory(); left != 0 {
		t.Errorf("%d machines and volumes are left", left)
	}
}

func TestBeforeCreate(t *testing.T) {
	text := resource.NewProperty[string]
	good := func() resource.PropertyMap {
		return resource.PropertyMap{
			"nodeName": text("pve"), "vmId": resource.NewProperty(101.0), "description": text("Managed by Cloudlab: cloudlab-owner=" + testOwner),
		}
	}
	tests := []struct {
		name   string
		change func(resource.PropertyMap)
		want   string
	}{
		{name: "complete", change: func(resource.PropertyMap) {}},
		{name: "unknown description", change: func(m resource.PropertyMap) { m["description"] = resource.MakeComputed(text("")) }, want: "must be known"},
		{name: "no number", change: func(m resource.PropertyMap) { delete(m, "vmId") }, want: "must be known"},
		{name: "no owner", change: func(m resource.PropertyMap) { m["description"] = text("mine") }, want: "does not name its owner"},
	}
	l := newLab(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inputs := good()
			test.change(inputs)
			err := l.beforeCreate(&pulumi.ResourceHookArgs{Name: "cp-1", NewInputs: inputs})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), `"cp-1"`)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestNewOrphans(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint := &url.URL{Scheme: "https", Host: "192.0.2.2:8006"}
	tests := []struct {
		name, token, caFile, want string
	}{
		{"malformed token", "cloudlab@pve!test", "", "user@realm!name=secret"},
		{"missing CA", testToken + "=x", filepath.Join(dir, "gone.pem"), "caFile"},
		{"empty CA", testToken + "=x", empty, "no PEM certificate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := NewOrphans(config.Proxmox{Endpoint: endpoint, TLS: config.TLS{CAFile: test.caFile}}, test.token, nil, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestCreated(t *testing.T) {
	if got := created("creation-qemu=9.2.0,ctime=1724800000"); got.Unix() != 1724800000 {
		t.Errorf("created at %v", got)
	}
	for _, meta := range []string{"", "creation-qemu=9.2.0", "ctime=yesterday"} {
		if got := created(meta); !got.IsZero() {
			t.Errorf("%q: created at %v, want never, so that it counts as old", meta, got)
		}
	}
}
