package e2e

import (
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
		{name: "creation with warnings", arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, TaskExit: "WARNINGS: 1", Times: 1})},
		{name: "slow start", arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, TaskDelay: pve.Duration(2 * time.Second)})},
		{name: "start with warnings", arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, TaskExit: "WARNINGS: 1", Times: 1})},
		{name: "status failed once", arm: proxmoxFault(pve.Fault{Method: "GET", Path: statusCall, Status: 500, Times: 1})},
		{name: "agent silent for 3 polls", arm: proxmoxFault(pve.Fault{AgentSilent: true, Times: 3})},
		{name: "link-local address first", arm: proxmoxFault(pve.Fault{LinkLocalOnly: true, Times: 2})},
		{name: "config unavailable", arm: talosFault(machine.Fault{Method: applyMethod, Code: "UNAVAILABLE", Message: "try later", Times: 3})},
		{name: "config dropped", arm: talosFault(machine.Fault{Method: applyMethod, Drop: true, Times: 2})},
		{name: "bootstrap too early", arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "FAILED_PRECONDITION", Message: "bootstrap is not available yet", Times: 3})},
		{name: "bootstrap unavailable", arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "UNAVAILABLE", Times: 3})},
		{name: "kubeconfig unavailable", arm: talosFault(machine.Fault{Method: kubeconfigMethod, Code: "UNAVAILABLE", Times: 3})},
	}
}

// failing are disturbances that somebody has to do something about.
func failing() []disturbance {
	return []disturbance{
		{name: "metadata forbidden", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{
			Method: "GET", Path: metadataCall, Status: 403, Reason: "Permission check failed (/nodes/pve, Sys.AccessNetwork)",
		})},
		{name: "metadata failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "GET", Path: metadataCall, Status: 500})},
		{name: "download refused", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: downloadCall, Status: 500})},
		{name: "download task failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: downloadCall, TaskExit: "download failed: 500 read timeout"})},
		{name: "content list failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "GET", Path: contentCall, Status: 503})},
		{name: "creation failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, Status: 500})},
		{name: "creation dropped", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, Drop: "before"})},
		{name: "creation task failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: createCall, TaskExit: "unable to create VM 101 - got lock timeout"})},
		{name: "start failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, TaskExit: "start failed: QEMU exited with code 1"})},
		{name: "start refused", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, Status: 500})},
		{name: "start answer lost", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: startCall, Drop: "after", Times: 1})},
		{name: "status failed", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "GET", Path: statusCall, Status: 500})},
		{name: "disk storage full", says: []string{"xyz"}, arm: func(l *lab) { l.full("local-lvm") }},
		{name: "image storage full", says: []string{"xyz"}, arm: func(l *lab) { l.full("local") }},
		{name: "token revoked", says: []string{"xyz"}, arm: func(l *lab) { l.revoke() }},
		{name: "token revoked midway", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Method: "POST", Path: "/nodes/*/qemu**", Status: 401, Reason: "authentication failure"})},
		{name: "Proxmox dropped", says: []string{"xyz"}, arm: proxmoxFault(pve.Fault{Drop: "before"})},
		{name: "config invalid", says: []string{"xyz"}, arm: talosFault(machine.Fault{
			Method: applyMethod, Code: "INVALID_ARGUMENT", Message: "specified install disk does not exist: \"/dev/sda\"",
		})},
		{name: "bootstrap refused", says: []string{"xyz"}, arm: talosFault(machine.Fault{Method: bootstrapMethod, Code: "PERMISSION_DENIED", Message: "not authorized"})},
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
			l.must(changes{"same": singleNode}, "up")
		})
	}
}

func TestFaultsFail(t *testing.T) {
	t.Parallel()
	for _, d := range failing() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
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
			l.must(nil, "up")
			l.tidy()
			l.must(changes{"same": singleNode}, "up")
		})
	}
}
