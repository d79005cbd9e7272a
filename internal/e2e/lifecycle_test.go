package e2e

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/pve"
)

// shape is a form of cluster that has to live a whole life.
type shape struct {
	name string
	// change makes it of the sandbox's own single node.
	change func(*testing.T, *lab, *configuration)
	// prepare changes the hardware before it starts.
	prepare func(*testing.T) func(*sandbox.Options)
	// resources counts what the stack holds, vms the machines among them.
	resources, vms int
	// check looks at the running cluster.
	check func(*testing.T, *lab)
}

func shapes() []shape {
	return []shape{
		// First contact is by DHCP in all of them: the lease, from 192.0.2.100 on, is never the static address.
		{name: "single node", resources: 15, vms: 1, check: checkLease},
		{name: "3 control planes and 2 workers", resources: 29, vms: 5, change: threePlusTwo, check: checkThreePlusTwo},
		{name: "port forwarding", resources: 15, vms: 1, change: forwardPort},
		{name: "given schematic", resources: 14, vms: 1, change: giveSchematic},
		{
			name: "no data disk, with tags, pool, VLAN and MTU", resources: 15, vms: 1, change: plainHardware, check: checkPlainHardware,
			prepare: func(t *testing.T) func(*sandbox.Options) { return withPool(t, "lab") },
		},
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var options []func(*sandbox.Options)
			if s.prepare != nil {
				options = append(options, s.prepare(t))
			}
			life{t: t, l: newLab(t, options...), shape: s}.live()
		})
	}
}

type life struct {
	shape
	t *testing.T
	l *lab
}

func (f life) live() {
	c := sandboxStack(f.t)
	if f.change != nil {
		f.change(f.t, f.l, c)
	}
	f.preview(c)
	f.l.mustWith(c, changes{"create": f.resources}, "up")
	if f.check != nil {
		f.check(f.t, f.l)
	}
	f.settled(c)
	f.cores(c)
	f.patch(c)
	f.inPlace(c)
	f.settled(c)
	f.destroy(c)
	f.l.noSecretInClear()
}

// preview writes nothing, neither here nor there.
func (f life) preview(c *configuration) {
	f.t.Helper()
	before, asked := files(f.t, f.l.Folder().Project(), "Pulumi.yaml", "Pulumi.sandbox.yaml"), f.l.Factory.Requests()
	f.l.mustWith(c, changes{"create": f.resources}, "preview")
	if diff := cmp.Diff(before, files(f.t, f.l.Folder().Project(), "Pulumi.yaml", "Pulumi.sandbox.yaml")); diff != "" {
		f.t.Errorf("preview changed the project's folder (-before +after):\n%s", diff)
	}
	if writes := f.l.writes(); len(writes) > 0 {
		f.t.Errorf("preview wrote to Proxmox: %v", writes)
	}
	if diff := cmp.Diff(asked, f.l.Factory.Requests()); diff != "" {
		f.t.Errorf("preview asked the Image Factory (-before +after):\n%s", diff)
	}
}

// settled: nothing is left to do.
func (f life) settled(c *configuration) {
	f.t.Helper()
	credentials := stamps(f.t, f.l)
	f.l.mustWith(c, changes{"same": f.resources}, "up")
	f.l.mustWith(c, changes{"same": f.resources}, "refresh")
	if diff := cmp.Diff(credentials, stamps(f.t, f.l)); diff != "" {
		f.t.Errorf("an up without changes touched the credentials (-before +after):\n%s", diff)
	}
}

// cores change the VM, not its disks.
func (f life) cores(c *configuration) {
	f.t.Helper()
	before := f.l.Proxmox.Inventory()
	c.node("cp-1")["cpu"] = object{"cores": 6}
	f.l.mustWith(c, changes{"update": 1, "same": f.resources - 1}, "up")
	after := f.l.Proxmox.Inventory()
	if diff := cmp.Diff(before.Volumes, after.Volumes); diff != "" {
		f.t.Errorf("more cores changed volumes (-before +after):\n%s", diff)
	}
	vm := vmByID(f.t, after, 101)
	if vm.Config["cores"] != "6" || len(vm.Pending) > 0 || !vm.Running {
		f.t.Errorf("machine after the change: cores %s, pending %v, running %v", vm.Config["cores"], vm.Pending, vm.Running)
	}
	f.l.awaitRunning()
}

// patch reaches the node that it is for and no other.
func (f life) patch(c *configuration) {
	f.t.Helper()
	target := f.l.Rack.Status()[f.vms-1] // a worker, where there are some
	applied := f.l.counter("/machine.MachineService/ApplyConfiguration")
	f.l.Proxmox.ClearRequests()
	c.node(target.Name)["patches"] = []string{"machine:\n  sysctls:\n    net.core.somaxconn: \"2048\"\n"}
	f.l.mustWith(c, changes{"update": 1, "same": f.resources - 1}, "up")
	// The provider asks what would change before it changes it.
	got := applied()
	if got[target.VMID] == 0 {
		f.t.Errorf("node %s got no machine config", target.Name)
	}
	delete(got, target.VMID)
	if len(got) > 0 {
		f.t.Errorf("nodes without a change got machine configs: %v", got)
	}
	if writes := f.l.writes(); len(writes) > 0 {
		f.t.Errorf("a patch wrote to Proxmox: %v", writes)
	}
}

// inPlace changes what a running machine does not notice.
func (f life) inPlace(c *configuration) {
	f.t.Helper()
	logs := f.l.machineLogs()
	f.l.Proxmox.ClearRequests()
	c.proxmox["tags"] = []string{"changed"}
	f.l.mustWith(c, changes{"update": f.vms, "same": f.resources - f.vms}, "up")
	image, ok := c.cluster["image"].(object)
	if !ok {
		image = object{}
		c.cluster["image"] = image
	}
	image["eject"] = true
	f.l.mustWith(c, changes{"update": f.vms, "same": f.resources - f.vms}, "up")
	for _, call := range f.l.writes() {
		if strings.Contains(call, "/status/") {
			f.t.Errorf("changed tags or an ejected ISO: %s", call)
		}
	}
	if diff := cmp.Diff(logs, f.l.machineLogs()); diff != "" {
		f.t.Errorf("changed tags or an ejected ISO reached the machines (-before +after):\n%s", diff)
	}
	for _, vm := range f.l.Proxmox.Inventory().Machines {
		if vm.Config["tags"] != "changed" || !strings.HasPrefix(vm.Config["ide2"], "none,") || len(vm.Pending) > 0 {
			f.t.Errorf("VM %d: tags %q, ide2 %q, pending %v", vm.VMID, vm.Config["tags"], vm.Config["ide2"], vm.Pending)
		}
	}
}

func (f life) destroy(c *configuration) {
	f.t.Helper()
	f.l.mustWith(c, changes{"delete": f.resources}, "destroy")
	f.l.mustBeEmpty()
}

// mustBeEmpty: neither VM nor disk nor ISO is left.
func (l *lab) mustBeEmpty() {
	l.t.Helper()
	if left := l.Proxmox.Inventory(); len(left.Machines)+len(left.Volumes) > 0 {
		l.t.Errorf("left after destroy: %+v", left)
	}
	isos, err := filepath.Glob(filepath.Join(string(l.Folder()), "hardware", "storage", "*", "*", "template", "iso", "*"))
	if err != nil || len(isos) > 0 {
		l.t.Errorf("files left on the simulated node: %v, %v", isos, err)
	}
}

func checkLease(t *testing.T, l *lab) {
	t.Helper()
	log := strings.Join(l.Rack.Logs(101), "\n")
	if strings.Count(log, "install successful") != 1 || strings.Count(log, "bootstrap request received") != 1 {
		t.Errorf("not installed and bootstrapped once:\n%s", log)
	}
	status := l.Rack.Status()[0]
	if !slices.Equal(status.Addresses, []string{"192.0.2.11/24"}) || !status.SecureBoot || status.Role != "controlplane" {
		t.Errorf("status %+v", status)
	}
}

func threePlusTwo(_ *testing.T, _ *lab, c *configuration) {
	c.cluster["vip"] = "192.0.2.10"
	clear(c.nodes)
	c.addNode("cp-1", "controlplane", "pve", 1)
	c.addNode("cp-2", "controlplane", "pve2", 2)
	c.addNode("cp-3", "controlplane", "pve3", 3)
	c.addNode("worker-1", "worker", "pve", 4)
	c.addNode("worker-2", "worker", "pve2", 5)
}

func checkThreePlusTwo(t *testing.T, l *lab) {
	t.Helper()
	where := map[string]string{}
	for _, vm := range l.Proxmox.Inventory().Machines {
		where[vm.Name] = vm.Node
	}
	if diff := cmp.Diff(map[string]string{"cp-1": "pve", "cp-2": "pve2", "cp-3": "pve3", "worker-1": "pve", "worker-2": "pve2"}, where); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
	bootstraps := 0
	for _, lines := range l.machineLogs() {
		bootstraps += strings.Count(lines, "bootstrap request received")
	}
	if bootstraps != 1 {
		t.Errorf("%d bootstraps, want 1", bootstraps)
	}
	l.awaitRunning()
	holders := 0
	for _, status := range l.Rack.Status() {
		if slices.ContainsFunc(status.Addresses, func(a string) bool { return strings.HasPrefix(a, "192.0.2.10/") }) {
			holders++
		}
	}
	if holders != 1 {
		t.Errorf("%d machines hold the shared address, want 1: %+v", holders, l.Rack.Status())
	}
}

// forwardPort puts the node behind a router that forwards a port to it, whatever its address, as a rule for its MAC does.
func forwardPort(t *testing.T, l *lab, c *configuration) {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go forward(t, l, conn)
		}
	}()
	c.node("cp-1")["talosEndpoint"] = listener.Addr().String()
}

func forward(t *testing.T, l *lab, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // the test looks at what came through
	for _, status := range l.Rack.Status() {
		for _, address := range status.Addresses {
			prefix, err := netip.ParsePrefix(address)
			if err != nil || !prefix.Addr().Is4() {
				continue
			}
			target, err := l.LAN.DialContext(t.Context(), "tcp", net.JoinHostPort(prefix.Addr().String(), "50000"))
			if err != nil {
				return
			}
			defer target.Close() //nolint:errcheck // the test looks at what came through
			go func() {
				_, _ = io.Copy(target, conn)
				_ = target.Close()
			}()
			_, _ = io.Copy(conn, target)
			return
		}
	}
}

// givenSchematic is the Image Factory's ID of the schematic that has the guest agent only.
const givenSchematic = "customization:\n    systemExtensions:\n        officialExtensions:\n            - siderolabs/qemu-guest-agent\n"

func giveSchematic(t *testing.T, l *lab, c *configuration) {
	t.Helper()
	c.cluster["image"] = object{"schematic": l.registerSchematic(givenSchematic)}
}

func plainHardware(_ *testing.T, _ *lab, c *configuration) {
	c.proxmox["pool"] = "lab"
	c.proxmox["tags"] = []string{"b-tag", "a-tag"}
	c.proxmox["network"] = object{"vlan": 20, "mtu": 1400}
	c.node("cp-1")["dataDisk"] = 0
}

func checkPlainHardware(t *testing.T, l *lab) {
	t.Helper()
	vm := vmByID(t, l.Proxmox.Inventory(), 101)
	if vm.Config["tags"] != "a-tag;b-tag" || vm.Config["scsi1"] != "" {
		t.Errorf("tags %q, scsi1 %q", vm.Config["tags"], vm.Config["scsi1"])
	}
	for _, want := range []string{"bridge=vmbr0", "tag=20", "mtu=1400"} {
		if !slices.Contains(strings.Split(vm.Config["net0"], ","), want) {
			t.Errorf("net0 %q lacks %s", vm.Config["net0"], want)
		}
	}
}

func vmByID(t *testing.T, inventory pve.Inventory, vmid int) pve.MachineInfo {
	t.Helper()
	for _, vm := range inventory.Machines {
		if vm.VMID == vmid {
			return vm
		}
	}
	t.Fatalf("no VM %d: %+v", vmid, inventory)
	return pve.MachineInfo{}
}

// files maps the names of a folder's files to their content, without those named.
func files(t *testing.T, dir string, without ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() || slices.Contains(without, entry.Name()) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[entry.Name()] = string(raw)
	}
	return all
}
