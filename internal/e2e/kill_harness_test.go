package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	proxmox "github.com/luthermonson/go-proxmox"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/pve"
)

// brake stops a machine at a line of its log. Machines log before they answer, so that nobody has the answer before release.
type brake struct {
	io.Writer
	mu              sync.Mutex
	text            string
	reached, resume chan struct{}
}

// hold returns a channel that is closed when the text is logged for the first time.
func (b *brake) hold(text string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text, b.reached, b.resume = text, make(chan struct{}), make(chan struct{})
	return b.reached
}

func (b *brake) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resume != nil {
		close(b.resume)
	}
	b.text, b.resume = "", nil
}

func (b *brake) Write(line []byte) (int, error) {
	b.mu.Lock()
	var resume chan struct{}
	if b.text != "" && bytes.Contains(line, []byte(b.text)) {
		resume = b.resume
		b.text = ""
		close(b.reached)
	}
	b.mu.Unlock()
	if resume != nil {
		<-resume
	}
	return b.Writer.Write(line)
}

// fragileLab is a lab whose machines can be stopped at a line of their log.
type fragileLab struct {
	*lab
	log *brake
}

func newFragileLab(t *testing.T) *fragileLab {
	t.Helper()
	log := &brake{}
	l := newLab(t, func(o *sandbox.Options) {
		log.Writer = o.Log
		o.Log = log
	})
	t.Cleanup(log.release)
	return &fragileLab{log: log, lab: l}
}

// operation is a command under way.
type operation struct {
	t      *testing.T
	cmd    *exec.Cmd
	people bytes.Buffer
	ended  chan struct{}
	err    error
}

// begin starts an operation that may be killed.
func (l *lab) begin(args ...string) *operation {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), operationLimit)
	o := &operation{t: l.t, cmd: l.process(ctx, args...), ended: make(chan struct{})}
	o.cmd.Stderr = &o.people
	// Plugins may outlive it and hold its streams open.
	o.cmd.WaitDelay = 100 * time.Millisecond
	if err := o.cmd.Start(); err != nil {
		cancel()
		l.t.Fatal(err)
	}
	go func() {
		defer cancel()
		o.err = o.cmd.Wait()
		close(o.ended)
	}()
	l.t.Cleanup(func() {
		o.killAll()
		<-o.ended
	})
	return o
}

// wait ends with the operation; its output may be read from then on.
func (o *operation) wait() {
	o.t.Helper()
	select {
	case <-o.ended:
	case <-time.After(operationLimit):
		o.t.Fatal("the operation did not end")
	}
}

// process is one of an operation's processes.
type process struct {
	pid  int
	name string
}

// processes lists an operation's processes that are alive, itself last. The engine gives the plugins process groups of their own, so
// they are found by their parents.
func (o *operation) processes() []process {
	children := map[int][]process{}
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		o.t.Error(err)
	}
	for _, path := range entries {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// "pid (name) state parent …", where the name may hold anything.
		begin, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
		fields := strings.Fields(string(raw[end+1:]))
		pid, pidErr := strconv.Atoi(strings.TrimSpace(string(raw[:begin])))
		parent, parentErr := strconv.Atoi(fields[1])
		if pidErr != nil || parentErr != nil {
			o.t.Errorf("%s: %q", path, raw)
			continue
		}
		children[parent] = append(children[parent], process{pid: pid, name: string(raw[begin+1 : end])})
	}
	all := []process{{pid: o.cmd.Process.Pid, name: "sandbox"}}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].pid]...)
	}
	slices.Reverse(all)
	return all
}

// killAll is kill -9 of the command, the engine and the plugins, as a power cut of the computer they run on.
func (o *operation) killAll() {
	select {
	case <-o.ended:
		return
	default:
	}
	// Stopped, it starts nothing new while its children are looked for.
	_ = o.cmd.Process.Signal(syscall.SIGSTOP)
	for _, p := range o.processes() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// killEngine is kill -9 of pulumi alone: the plugins lose their engine in the middle of a call. They notice after some minutes; the end
// of the test is theirs too.
func (o *operation) killEngine() {
	killed := 0
	all := o.processes()
	o.t.Cleanup(func() {
		for _, p := range all {
			if now, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid)); err == nil && strings.TrimSpace(string(now)) == p.name {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	})
	for _, p := range all {
		if p.name == "pulumi" {
			killed++
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	if killed != 1 {
		o.t.Errorf("%d engines killed, want 1: %v", killed, all)
	}
}

func needsProc(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("finds the processes to kill in /proc")
	}
}

// fault arms a fault of the Proxmox API.
func (l *lab) fault(f pve.Fault) string {
	l.t.Helper()
	id, err := l.Proxmox.AddFault(f)
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

// until waits until a condition holds.
func (l *lab) until(what string, holds func() bool) {
	l.t.Helper()
	l.eventually(func() string {
		if holds() {
			return ""
		}
		return "not yet: " + what
	})
}

// called waits for an API call that has been answered.
func (l *lab) called(method, path string) {
	l.t.Helper()
	l.until(method+" "+path, func() bool {
		return slices.ContainsFunc(l.Proxmox.Requests(), func(r pve.Request) bool {
			return r.Method == method && r.Path == path && r.Status == 200
		})
	})
}

// tidy checks that what exists is what the single node needs, once each.
func (l *lab) tidy() {
	l.t.Helper()
	inventory := l.Proxmox.Inventory()
	if len(inventory.Machines) != 1 || inventory.Machines[0].VMID != 101 || !inventory.Machines[0].Running {
		l.t.Errorf("machines: %+v, want a running 101", inventory.Machines)
		return
	}
	images := 0
	for _, volume := range inventory.Volumes {
		if volume.Content == "iso" {
			images++
			continue
		}
		attached := false
		for _, value := range inventory.Machines[0].Config {
			attached = attached || strings.HasPrefix(value, volume.ID+",")
		}
		if !attached {
			l.t.Errorf("volume %s belongs to nothing", volume.ID)
		}
	}
	if images != 1 {
		l.t.Errorf("%d boot images, want 1: %+v", images, inventory.Volumes)
	}
	log := strings.Join(l.Rack.Logs(101), "\n")
	for _, once := range []string{"install successful", "etcd: bootstrapped"} {
		if n := strings.Count(log, once); n != 1 {
			l.t.Errorf("%q %d times in the machine's log, want once:\n%s", once, n, log)
		}
	}
	if status := l.Rack.Status()[0]; !status.Bootstrapped || status.Hostname != "cp-1" {
		l.t.Errorf("machine: %+v", status)
	}
}

// converges brings an interrupted stack up and shows that nothing was done twice and nothing is left over in the end. The lock of the
// killed engine is in the way, unless it has been released.
func (l *lab) converges(released bool) {
	l.t.Helper()
	if r := l.must(nil, "up"); !strings.Contains(r.output, "which ended without doing so") && !released {
		l.t.Errorf("up does not say that it removed the lock:\n%s", tail(r.output, 40))
	}
	l.tidy()
	l.must(changes{"same": singleNode}, "up")
	l.must(changes{"same": singleNode}, "refresh")
	l.tidy()
	l.must(changes{"delete": singleNode}, "destroy")
	l.mustBeEmpty()
}

// singleNode counts the resources of the sandbox's own stack.
const singleNode = 15

// records tells whether the stack's state holds a resource of this type.
func (l *lab) records(kind string) bool {
	l.t.Helper()
	return slices.ContainsFunc(l.checkpoint(), func(r recorded) bool { return ofType(r, kind) })
}

func ofType(r recorded, kind string) bool { return strings.Contains(r.URN, kind+"::") }

// forget takes all resources of these types out of the state, as a state from a backup would lack them.
func (l *lab) forget(kinds ...string) {
	l.t.Helper()
	for _, kind := range kinds {
		for _, r := range slices.Backward(l.checkpoint()) { // dependents first
			if ofType(r, kind) {
				l.program(filepath.Join(l.Folder().Pulumi(), "bin", "pulumi"), nil,
					"state", "delete", r.URN, "--stack", sandbox.Stack, "--yes", "--force")
			}
		}
	}
}

// createMachine makes a machine that is none of the program's.
func (l *lab) createMachine(node string, vmid int, name string) {
	l.t.Helper()
	var upid proxmox.UPID
	err := l.proxmoxClient().Post(l.t.Context(), fmt.Sprintf("/nodes/%s/qemu", node), map[string]any{"vmid": vmid, "name": name, "scsi0": "local-lvm:8"}, &upid)
	if err != nil {
		l.t.Fatal(err)
	}
	l.until(name, func() bool {
		all := l.Proxmox.Inventory().Machines
		return len(all) == 1 && all[0].Name == name
	})
}

// deleteMachine stops a machine and deletes it with its disks, as a person would in Proxmox's web interface.
func (l *lab) deleteMachine(node string, vmid int) {
	l.t.Helper()
	client, path := l.proxmoxClient(), fmt.Sprintf("/nodes/%s/qemu/%d", node, vmid)
	var upid proxmox.UPID
	if err := client.Post(l.t.Context(), path+"/status/stop", nil, &upid); err != nil {
		l.t.Fatal(err)
	}
	l.until("stopped", func() bool { return !vmByID(l.t, l.Proxmox.Inventory(), vmid).Running })
	if err := client.Delete(l.t.Context(), path+"?purge=1", &upid); err != nil {
		l.t.Fatal(err)
	}
	l.until("deleted", func() bool { return len(l.Proxmox.Inventory().Machines) == 0 })
}
