package e2e

import (
	"testing"
	"time"

	"cloudlab/internal/sandbox/pve"
)

// The types of what a killed run must not have recorded yet.
const (
	fileType       = "proxmoxve:Download/file:File"
	machineType    = "proxmoxve:VM/virtualMachine:VirtualMachine"
	applyType      = "talos:machine/configurationApply:ConfigurationApply"
	kubeconfigType = "talos:cluster/kubeconfig:Kubeconfig"
)

// stall is how long a fault holds up a call around which an operation is killed. What lives on goes on after it.
const stall = 3 * time.Second

// moment arms what stalls an operation and returns a function that waits until it has come to pass.
type moment func(*fragileLab) func(*operation)

// stage is a moment at which an operation is killed.
type stage struct {
	name string
	// reach arms what stalls the operation and returns a function that waits for the moment.
	reach moment
	// without is the type of the resource that must not be in the state then.
	without string
}

func stages() []stage {
	return []stage{
		{name: "download begun", without: fileType, reach: after(
			pve.Fault{Method: "POST", Path: "/nodes/*/storage/*/download-url", TaskDelay: pve.Duration(stall), Times: 1},
			"POST", "/nodes/pve/storage/local/download-url")},
		{name: "image there but not recorded", without: fileType, reach: imageThere},
		{name: "VM created but not started", without: machineType, reach: after(
			pve.Fault{Method: "POST", Path: "/nodes/*/qemu/101/status/start", Delay: pve.Duration(stall), Times: 1}, "POST", "/nodes/pve/qemu")},
		{name: "VM being created", without: machineType, reach: after(
			pve.Fault{Method: "POST", Path: "/nodes/*/qemu", TaskDelay: pve.Duration(stall), Times: 1}, "POST", "/nodes/pve/qemu")},
		{name: "VM started but not recorded", without: machineType, reach: after(
			pve.Fault{Method: "GET", Path: "/nodes/*/qemu/101/agent/network-get-interfaces", Delay: pve.Duration(stall), Times: 1},
			"POST", "/nodes/pve/qemu/101/status/start")},
		{name: "machine config sent but not recorded", without: applyType, reach: logged("apply config request")},
		{name: "installing", without: kubeconfigType, reach: logged("install sequence: START")},
		{name: "bootstrapped but not recorded", without: kubeconfigType, reach: logged("etcd: bootstrapped")},
	}
}

// TestKill kills -9 at each stage, in two ways: everything that ran on the operator's computer, as its power cut would, and the engine
// alone, whose plugins go on with their calls while the next up begins.
func TestKill(t *testing.T) {
	t.Parallel()
	needsProc(t)
	for _, s := range stages() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.survives(t, (*operation).killAll)
		})
		t.Run(s.name+", engine alone", func(t *testing.T) {
			t.Parallel()
			s.survives(t, (*operation).killEngine)
		})
	}
}

func (s stage) survives(t *testing.T, kill func(*operation)) {
	t.Helper()
	l := newFragileLab(t)
	await := s.reach(l)
	up := l.begin("up")
	await(up)
	kill(up)
	l.log.release()
	up.wait()
	if up.err == nil {
		t.Fatalf("the killed up succeeded\n%s", up.people.String())
	}
	if l.recorded(s.without) {
		t.Errorf("too late: the state already holds a %s", s.without)
	}
	l.converges()
}

// after waits for an answered call.
func after(f pve.Fault, method, path string) moment {
	return func(l *fragileLab) func(*operation) {
		l.fault(f)
		return func(*operation) { l.called(method, path) }
	}
}

// imageThere stalls the provider when it looks for the image that was downloaded.
func imageThere(l *fragileLab) func(*operation) {
	l.fault(pve.Fault{Method: "GET", Path: "/nodes/*/storage/local/content", Delay: pve.Duration(stall), Times: 1})
	return func(*operation) {
		l.until("a boot image", func() bool { return len(l.Proxmox.Inventory().Volumes) == 1 })
	}
}

// logged waits for a line of the machine's log. The machine holds its breath until the kill is done.
func logged(text string) moment {
	return func(l *fragileLab) func(*operation) {
		reached := l.log.hold(text)
		return func(o *operation) {
			select {
			case <-reached:
			case <-o.ended:
				l.t.Fatalf("the machine never logged %q\n%s", text, tail(o.people.String(), 30))
			case <-time.After(operationLimit):
				l.t.Fatalf("the machine never logged %q", text)
			}
		}
	}
}
