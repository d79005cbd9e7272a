package e2e

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/pve"
)

// Calls that faults disturb.
const (
	metadataCall = "/nodes/*/query-url-metadata"
	downloadCall = "/nodes/*/storage/*/download-url"
	contentCall  = "/nodes/*/storage/*/content"
	createCall   = "/nodes/*/qemu"
	startCall    = "/nodes/*/qemu/*/status/start"
	statusCall   = "/nodes/*/qemu/*/status/current"
	taskCall     = "/nodes/*/tasks/*/status"

	applyMethod      = "/machine.MachineService/ApplyConfiguration"
	bootstrapMethod  = "/machine.MachineService/Bootstrap"
	kubeconfigMethod = "/machine.MachineService/Kubeconfig"
)

// disturbance is something that goes wrong during the first up.
type disturbance struct {
	name string
	arm  func(*lab)
	// says is what the failed up must tell: the object and the next step. Without it the up must succeed.
	says []string
	// refresh tells that refresh has to come before the next up.
	refresh bool
	// unread tells that the provider does not read the machine back, so that the next up has something to update.
	unread bool
}

func proxmoxFault(f pve.Fault) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		l.fault(f)
	}
}

func talosFault(f machine.Fault) func(*lab) {
	return func(l *lab) {
		l.t.Helper()
		if _, err := l.Rack.AddFault(f); err != nil {
			l.t.Fatal(err)
		}
	}
}

// healing are disturbances that the operator does not notice.
func healing() []disturbance {
	return []disturbance{
		{name: "metadata dropped once", arm: proxmoxFault(pve.Fault{Method: "GET", Path: metadataCall, Drop: "before", Times: 1})},
		{name: "content list dropped once", arm: proxmoxFault(pve.Fault{Method: "GET", Path: contentCall, Drop: "after", Times: 1})},
		{name: "slow download", arm: proxmoxFault(pve.Fault{Method: "POST", Path: downloadCall, TaskDelay: pve.Duration(2 * time.Second)})},
		{name: "task status dropped", arm: proxmoxFault(pve.Fault{Method: "GET", Path: taskCall, Drop: "after", Times: 1})},
		{name: "no worker upid", arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, Status: 500, Reason: "got no worker upid - start worker failed", Times: 1})},
		{name: "slow creation", arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, TaskDelay: pve.Duration(2 * time.Second)})},
		{name: "slow start", arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, TaskDelay: pve.Duration(2 * time.Second)})},
		{name: "start with warnings", unread: true, arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, TaskExit: "WARNINGS: 1", Times: 1})},
		{name: "agent silent for 3 polls", arm: proxmoxFault(pve.Fault{AgentSilent: true, Times: 3})},
		{name: "link-local address first", arm: proxmoxFault(pve.Fault{LinkLocalOnly: true, Times: 2})},
		{name: "config unavailable", arm: talosFault(machine.Fault{Method: applyMethod, Code: "UNAVAILABLE", Message: "try later", Times: 3})},
		{name: "config dropped", arm: talosFault(machine.Fault{Method: applyMethod, Drop: true, Times: 2})},
		{name: "bootstrap too early", arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "FAILED_PRECONDITION", Message: "bootstrap is not available yet", Times: 3})},
		{name: "bootstrap unavailable", arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "UNAVAILABLE", Times: 3})},
		{name: "kubeconfig unavailable", arm: talosFault(machine.Fault{Method: kubeconfigMethod, Code: "UNAVAILABLE", Times: 3})},
	}
}

// What the operator is told about Proxmox.
var (
	image    = "boot-image-pve"
	vm       = "VirtualMachine cp-1"
	unwell   = "Proxmox did not answer as it should"
	halfway  = "run refresh, which sees it as it is, and up"
	newToken = "create it anew and put it into secrets.enc.json"
)

// failing are disturbances that somebody has to do something about.
func failing() []disturbance {
	on := func(method, path string, f pve.Fault) func(*lab) {
		f.Method, f.Path = method, path
		return proxmoxFault(f)
	}
	return []disturbance{
		{name: "metadata forbidden", says: []string{image, "the role of the API token lacks Sys.AccessNetwork on /nodes/pve"}, arm: on("GET", metadataCall, pve.Fault{
			Status: 403, Reason: "Permission check failed (/nodes/pve, Sys.AccessNetwork)",
		})},
		{name: "metadata failed", says: []string{image, unwell}, arm: on("GET", metadataCall, pve.Fault{Status: 500})},
		{name: "download refused", says: []string{image, unwell}, arm: on("POST", downloadCall, pve.Fault{Status: 500})},
		{name: "download task failed", says: []string{image, "see that the node reaches the Image Factory"}, arm: on("POST", downloadCall, pve.Fault{
			TaskExit: "download failed: 500 read timeout",
		})},
		{name: "content list failed", says: []string{image, unwell}, arm: on("GET", contentCall, pve.Fault{Status: 503})},
		{name: "creation failed", says: []string{vm, unwell}, arm: on("POST", createCall, pve.Fault{Status: 500})},
		{name: "creation dropped", says: []string{vm, unwell}, arm: on("POST", createCall, pve.Fault{Drop: "before"})},
		{name: "creation task failed", says: []string{vm, "got lock timeout"}, arm: on("POST", createCall, pve.Fault{
			TaskExit: "unable to create VM 101 - got lock timeout",
		})},
		{name: "creation with warnings", says: []string{vm, "Proxmox did it with warnings"}, arm: on("POST", createCall, pve.Fault{TaskExit: "WARNINGS: 1", Times: 1})},
		{name: "start failed", refresh: true, says: []string{vm, "QEMU exited with code 1", halfway}, arm: on("POST", startCall, pve.Fault{
			TaskExit: "start failed: QEMU exited with code 1",
		})},
		{name: "start refused", refresh: true, says: []string{vm, halfway}, arm: on("POST", startCall, pve.Fault{Status: 500})},
		{name: "start answer lost", says: []string{vm, halfway}, arm: on("POST", startCall, pve.Fault{Drop: "after", Times: 1})},
		{name: "status failed", says: []string{vm, halfway}, arm: on("GET", statusCall, pve.Fault{Status: 500})},
		{name: "disk storage full", says: []string{vm, "a datastore of Proxmox is full"}, arm: func(l *lab) { l.full("local-lvm") }},
		{name: "image storage full", says: []string{image, "a datastore of Proxmox is full"}, arm: func(l *lab) { l.full("local") }},
		{name: "token revoked", says: []string{image, newToken}, arm: func(l *lab) { l.revoke() }},
		{name: "token revoked midway", says: []string{vm, newToken}, arm: on("", "/nodes/*/qemu/**", pve.Fault{Status: 401, Reason: "authentication failure"})},
		{name: "Proxmox unreachable", says: []string{image, unwell}, arm: proxmoxFault(pve.Fault{Drop: "before"})},
		{name: "Image Factory down", says: []string{"Schematic image", "the Image Factory did not answer as it should"}, arm: func(l *lab) { l.Factory.SetDown(true) }},
		{
			name: "config invalid", says: []string{"cp-1-install", "refused: specified install disk does not exist", "correct the node's settings or patches"},
			arm: talosFault(machine.Fault{Method: applyMethod, Code: "INVALID_ARGUMENT", Message: `specified install disk does not exist: "/dev/sda"`}),
		},
		{
			name: "bootstrap refused", says: []string{"bootstrap 192.0.2.11:50000: refused: not authorized", "talosctl dmesg"},
			arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "PERMISSION_DENIED", Message: "not authorized"}),
		},
	}
}

func (l *lab) full(storage string) {
	l.t.Helper()
	if err := l.Proxmox.SetStorageFull(storage, true); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) revoke() {
	l.t.Helper()
	if err := l.Proxmox.SetTokenRevoked(sandbox.TokenID, true); err != nil {
		l.t.Fatal(err)
	}
}

// repaired takes all disturbances away.
func (l *lab) repaired() {
	l.t.Helper()
	l.Proxmox.ClearFaults()
	l.Rack.ClearFault("")
	l.Factory.SetDown(false)
	for _, storage := range []string{"local", "local-lvm"} {
		if err := l.Proxmox.SetStorageFull(storage, false); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := l.Proxmox.SetTokenRevoked(sandbox.TokenID, false); err != nil {
		l.t.Fatal(err)
	}
}

func TestFaultsHeal(t *testing.T) {
	t.Parallel()
	for _, d := range healing() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			d.arm(l)
			r := l.must(nil, "up")
			t.Logf("up took %s", r.took)
			l.tidy()
			if d.unread {
				l.must(changes{"update": 1, "same": singleNode - 1}, "up")
				l.tidy()
			}
			l.must(changes{"same": singleNode}, "up")
		})
	}
}

// silence is how long an up may wait for a machine whose guest agent never answers.
const silence = 4 * time.Minute

// agentSilent begins an up with a guest agent that never answers, which takes minutes of waiting but no work, and returns a function
// that waits for its end.
func agentSilent(t *testing.T) func() {
	t.Helper()
	l := newLab(t)
	l.fault(pve.Fault{AgentSilent: true})
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	cmd := l.process(ctx, "up")
	var people bytes.Buffer
	cmd.Stderr = &people
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return func() {
		defer cancel()
		err := <-ended
		for _, want := range []string{
			`node "cp-1" (VM 101 on Proxmox node "pve"): no Talos API at 192.0.2.11:50000, and its guest agent reports no address`,
			`cp-1-install: no Talos API at 192.0.2.11:50000 after 1m0s: look at the console of VM 101 on Proxmox node "pve"`,
			"run refresh, so that the guest agent is asked again",
		} {
			if err == nil || !strings.Contains(people.String(), want) {
				t.Errorf("up: %v, does not say %q:\n%s", err, want, tail(people.String(), 40))
			}
		}
		l.repaired()
		l.must(nil, "up")
		l.tidy()
	}
}

func TestFaultsFail(t *testing.T) {
	t.Parallel()
	silent := agentSilent(t)
	t.Run("while another waits", func(t *testing.T) {
		for _, d := range failing() {
			t.Run(d.name, func(t *testing.T) {
				t.Parallel()
				d.heals(t)
			})
		}
	})
	silent()
}

// heals shows that a failed up says what is to be done, and that an up works when it has been done.
func (d disturbance) heals(t *testing.T) {
	t.Helper()
	l := newLab(t)
	d.arm(l)
	r := l.run("up")
	if r.err == nil {
		t.Fatalf("up succeeded\n%s", tail(r.output, 40))
	}
	t.Logf("up took %s", r.took)
	for _, want := range d.says {
		if !strings.Contains(r.output, want) {
			t.Errorf("up does not say %q:\n%s", want, tail(r.output, 40))
		}
	}
	l.repaired()
	if d.refresh {
		l.must(nil, "refresh")
	}
	l.must(nil, "up")
	l.tidy()
	l.must(changes{"same": singleNode}, "up")
}

// TestPowerLoss takes the power from a machine.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	lose := func(l *fragileLab) {
		if err := l.Proxmox.PowerLoss(101); err != nil {
			l.t.Fatal(err)
		}
	}
	t.Run("while it installs", func(t *testing.T) {
		t.Parallel()
		l := newFragileLab(t)
		installing := logged("install sequence: START")(l)
		up := l.begin("up")
		installing(up)
		go lose(l) // the machine goes on to its end when it is released
		l.log.release()
		up.wait()
		want := `VM 101 on Proxmox node "pve" is stopped: find out why, then run refresh, which sees it, and up, which starts it`
		if up.err == nil || !strings.Contains(up.people.String(), want) {
			t.Fatalf("up: %v, want %q\n%s", up.err, want, tail(up.people.String(), 40))
		}
		l.must(nil, "refresh")
		l.must(nil, "up")
		l.awaitRunning()
		l.must(changes{"same": singleNode}, "up")
	})
	t.Run("when it is in service", func(t *testing.T) {
		t.Parallel()
		l := newFragileLab(t)
		l.must(nil, "up")
		lose(l)
		l.must(nil, "refresh")
		l.must(changes{"update": 1, "same": singleNode - 1}, "up")
		l.awaitRunning()
		l.tidy()
		l.must(changes{"same": singleNode}, "up")
	})
}

// TestMachineDeletedByHand: the VM comes back after a refresh, but nothing tells the provider that its installation is gone too. The
// program does.
func TestMachineDeletedByHand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.must(nil, "up")
	l.deleteMachine("pve", 101)
	l.must(nil, "refresh")
	r := l.run("up")
	for _, want := range []string{`node "cp-1" waits for its first machine config`, "is recorded as installed", "--replace"} {
		if r.err == nil || !strings.Contains(r.output, want) {
			t.Errorf("up: %v, does not say %q\n%s", r.err, want, tail(r.output, 40))
		}
	}
	// What the error says to do: installation, configuration and, on a lone control plane, bootstrap and kubeconfig.
	_, command, _ := strings.Cut(r.output, "--replace '")
	urn, _, found := strings.Cut(command, "'")
	if !found {
		t.Fatalf("up does not give the command\n%s", tail(r.output, 40))
	}
	l.must(changes{"replace": 3, "same": singleNode - 3}, "up", "--replace", urn)
	l.awaitRunning()
	l.must(changes{"same": singleNode}, "up")
	l.must(changes{"same": singleNode}, "refresh")
}
