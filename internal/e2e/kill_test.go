package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
	if l.records(s.without) {
		t.Errorf("too late: the state already holds a %s", s.without)
	}
	l.converges(false)
}

// TestKillBeforeExport kills when the program is about to write the first and the last of the credentials' files.
func TestKillBeforeExport(t *testing.T) {
	t.Parallel()
	needsProc(t)
	for name, written := range map[string]int{"nothing written": 0, "all but one written": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			// The program reads the rules for each file: a pipe in their place holds it there.
			rules := filepath.Join(l.Folder().Project(), ".sops.yaml")
			text, err := os.ReadFile(rules)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Remove(rules), syscall.Mkfifo(rules, 0o600)); err != nil {
				t.Fatal(err)
			}
			up := l.begin("up")
			for range written {
				feed(t, up, rules, text)
			}
			feed(t, up, rules, nil)
			up.killAll()
			up.wait()
			if err := errors.Join(os.Remove(rules), os.WriteFile(rules, text, 0o600)); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(l.Folder().Project(), "*.sandbox.enc.yaml"))
			if err != nil || len(files) != written {
				t.Errorf("files %v, want %d (%v)", files, written, err)
			}
			if !l.records(kubeconfigType) {
				t.Error("too early: the state holds no kubeconfig")
			}
			l.must(nil, "up")
			if files, _ = filepath.Glob(filepath.Join(l.Folder().Project(), "*.sandbox.enc.yaml")); len(files) != 3 {
				t.Errorf("files %v, want 3", files)
			}
			l.converges(true)
		})
	}
}

// feed gives a pipe's next reader its text; without one it only waits for the reader.
func feed(t *testing.T, o *operation, pipe string, text []byte) {
	t.Helper()
	opened := make(chan error, 1)
	go func() {
		file, err := os.OpenFile(pipe, os.O_WRONLY, 0) // blocks until there is a reader
		if err == nil && text != nil {
			_, err = file.Write(text)
			err = errors.Join(err, file.Close())
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case <-o.ended:
		t.Fatalf("up ended early: %v\n%s", o.err, tail(o.people.String(), 30))
	case <-time.After(operationLimit):
		t.Fatal("the program read no rules")
	}
	time.Sleep(50 * time.Millisecond) // until the reader has seen the end
}

// TestKillWhileDestroying kills a destroy that has asked for the VM's removal.
func TestKillWhileDestroying(t *testing.T) {
	t.Parallel()
	needsProc(t)
	l := newLab(t)
	l.must(nil, "up")
	l.fault(pve.Fault{Method: "DELETE", Path: "/nodes/*/qemu/101/", TaskDelay: pve.Duration(time.Second), Times: 1})
	destroy := l.begin("destroy")
	l.called("DELETE", "/nodes/pve/qemu/101/")
	destroy.killAll()
	destroy.wait()
	l.until("no machine", func() bool { return len(l.Proxmox.Inventory().Machines) == 0 })
	l.must(nil, "destroy")
	l.mustBeEmpty()
}

// TestForeignMachine: a machine that is not certainly an empty one of this stack is left alone.
func TestForeignMachine(t *testing.T) {
	t.Parallel()
	t.Run("somebody else's", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.createMachine("pve", 101, "precious")
		before := l.Proxmox.Inventory().Machines
		r := l.run("up")
		for _, want := range []string{`machine "cp-1": VM 101 already exists on Proxmox node "pve" and does not belong to this stack`, "choose another vmId"} {
			if r.err == nil || !strings.Contains(r.output, want) {
				t.Errorf("up: %v, does not say %q\n%s", r.err, want, tail(r.output, 30))
			}
		}
		if diff := cmp.Diff(before, l.Proxmox.Inventory().Machines); diff != "" {
			t.Errorf("the machine was touched (-before +after):\n%s", diff)
		}
	})
	t.Run("ours with data, out of the state", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.must(nil, "up")
		l.forget(kubeconfigType, applyType, machineType)
		before, log := l.Proxmox.Inventory(), l.Rack.Logs(101)
		r := l.run("up")
		for _, want := range []string{"carries this stack's mark and may hold data", "pulumi import proxmoxve:VM/virtualMachine:VirtualMachine cp-1 pve/101"} {
			if r.err == nil || !strings.Contains(r.output, want) {
				t.Errorf("up: %v, does not say %q\n%s", r.err, want, tail(r.output, 30))
			}
		}
		if diff := cmp.Diff(before, l.Proxmox.Inventory()); diff != "" {
			t.Errorf("the machine was touched (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(log, l.Rack.Logs(101)); diff != "" {
			t.Errorf("the machine noticed (-before +after):\n%s", diff)
		}
	})
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
