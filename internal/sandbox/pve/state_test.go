package pve

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSnapshotAndRestore(t *testing.T) {
	l := withMachineLab(t)
	l.done("POST", vm101+"/status/start")
	l.ok("PUT", vm101+"/config", "cores", "8")
	l.ok("POST", "/pools", "poolid", "lab")
	l.fault(Fault{Method: "POST", Path: "/nodes/pve/qemu", TaskDelay: Duration(time.Minute)})
	slow := decode[string](t, l.ok("POST", "/nodes/pve/qemu", "vmid", "102"))
	raw, err := l.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	other := newLab(t)
	if err := other.Restore(raw); err != nil {
		t.Fatal(err)
	}
	want, got := l.Inventory(), other.Inventory()
	want.Machines = want.Machines[:1] // its creation was cut short
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	hw, on := other.guests.running(101)
	if !on || hw.Cores != 4 {
		t.Errorf("the guest was not powered on with its running hardware: %v %+v", on, hw)
	}
	if exit := other.wait([]byte(`"` + slow + `"`)); exit != "unexpected status" {
		t.Errorf("interrupted task: %q", exit)
	}
	other.ok("GET", "/pools/lab")
	other.done("POST", vm101+"/status/shutdown", "forceStop", "1")
	if err := other.Restore([]byte("{")); err == nil {
		t.Error("a broken snapshot was restored")
	}
}

func TestGuestStopsByItself(t *testing.T) {
	changes := make(chan struct{}, 100)
	l := newLabWith(t, Options{
		Tokens:  map[string]Token{testTokenID: {Secret: testSecret, Administrator: true}},
		Changed: func() { changes <- struct{}{} },
	})
	l.download()
	l.done("POST", "/nodes/pve/qemu", with(talosForm(101), "start", "1")...)
	l.ok("PUT", vm101+"/config", "cores", "2")
	l.GuestStopped(101)
	l.GuestStopped(999)
	if config := l.config("current", "1"); config["cores"] != 2.0 {
		t.Errorf("pending changes apply when the guest stops: %v", config["cores"])
	}
	l.done("POST", vm101+"/status/stop")
	l.refused(l.call("POST", vm101+"/status/reboot"), http.StatusInternalServerError, "VM 101 not running", nil)
	l.done("POST", vm101+"/status/start")
	if err := l.PowerLoss(101); err != nil {
		t.Fatal(err)
	}
	if _, on := l.guests.running(101); on {
		t.Error("still on")
	}
	if err := l.PowerLoss(101); err == nil {
		t.Error("power loss of a stopped machine")
	}
	if len(changes) == 0 {
		t.Error("Changed was not called")
	}
}

func TestShutdownTimeouts(t *testing.T) {
	l := withMachineLab(t)
	l.done("POST", vm101+"/status/start")
	l.guests.set(func(g *fakeGuests) { g.hang = true })
	if exit := l.task("POST", vm101+"/status/shutdown", "timeout", "0"); exit != "VM quit/powerdown failed - got timeout" {
		t.Errorf("exit %q", exit)
	}
	shutdown := l.ok("POST", vm101+"/status/shutdown", "timeout", "600")
	if exit := l.task("POST", vm101+"/status/stop", "overrule-shutdown", "1"); exit != "OK" {
		t.Errorf("stop: %q", exit)
	}
	if exit := l.wait(shutdown); exit != "received interrupt" {
		t.Errorf("overruled shutdown: %q", exit)
	}
	l.done("POST", vm101+"/status/start")
	l.done("POST", vm101+"/status/shutdown", "timeout", "0", "forceStop", "1")
	if exit := l.task("POST", "/nodes/pve/qemu/100/status/stop"); exit != "unable to find configuration file for VM 100 on node 'pve'" {
		t.Errorf("exit %q", exit)
	}
	l.guests.set(func(g *fakeGuests) { g.powerError = errors.New("kvm: no such accelerator") })
	if exit := l.task("POST", vm101+"/status/start"); exit != "start failed: QEMU exited with code 1" {
		t.Errorf("exit %q", exit)
	}
}

func TestTasks(t *testing.T) {
	l := newLabWith(t, Options{Tokens: map[string]Token{
		testTokenID:  {Secret: testSecret, Administrator: true},
		"dev@pve!xx": Grant("x"),
	}})
	upid := decode[string](t, l.ok("POST", "/nodes/pve/qemu", "vmid", "100"))
	if !upidPattern.MatchString(upid) || !strings.HasSuffix(upid, ":qmcreate:100:sim@pve!ci:") {
		t.Errorf("UPID %q", upid)
	}
	status := decode[map[string]any](t, l.ok("GET", "/nodes/pve/tasks/"+strings.ReplaceAll(upid, "!", "%21")+"/status"))
	if status["status"] != "stopped" || status["exitstatus"] != "OK" || status["user"] != "sim@pve" || status["tokenid"] != "ci" || status["id"] != "100" {
		t.Errorf("a short task has ended before the first poll: %v", status)
	}
	log := l.call("GET", "/nodes/pve/tasks/"+upid+"/log")
	if string(log.body.Data) != `[{"n":1,"t":"TASK OK"}]` || log.body.Total != 1 {
		t.Errorf("log %s, total %d", log.body.Data, log.body.Total)
	}
	l.refused(l.call("GET", "/nodes/pve/tasks/nonsense/status"), 400, "Parameter verification failed.", map[string]string{"upid": "unable to parse worker upid"})
	l.refused(l.call("GET", "/nodes/pve/tasks/UPID:pve:00000001:00000001:00000001:x:1:a@b:/status"), 400, "Parameter verification failed.",
		map[string]string{"upid": "no such task"})
	l.fault(Fault{Method: "DELETE", Path: "/nodes/pve/qemu/100", TaskDelay: Duration(time.Minute)})
	slow := decode[string](t, l.ok("DELETE", "/nodes/pve/qemu/100"))
	if list := decode[[]map[string]any](t, l.ok("GET", "/nodes/pve/tasks", "source", "active")); len(list) != 1 || list[0]["upid"] != slow {
		t.Errorf("active %v", list)
	}
	l.ok("DELETE", "/nodes/pve/tasks/"+slow)
	if exit := l.wait([]byte(`"` + slow + `"`)); exit != "received interrupt" {
		t.Errorf("exit %q", exit)
	}
	if list := decode[[]map[string]any](t, l.ok("GET", "/nodes/pve/tasks", "errors", "1")); len(list) != 1 || list[0]["status"] != "received interrupt" {
		t.Errorf("failed %v", list)
	}
	l.header = "PVEAPIToken=dev@pve!xx=x"
	l.refused(l.call("GET", "/nodes/pve/tasks/"+upid+"/status"), http.StatusForbidden, "Permission check failed (/nodes/pve, Sys.Audit)", nil)
	if list := decode[[]map[string]any](t, l.ok("GET", "/nodes/pve/tasks")); len(list) != 0 {
		t.Errorf("another's tasks: %v", list)
	}
}

func TestPokingAround(t *testing.T) {
	l := newLabWith(t, Options{
		Nodes: []string{"pve1", "pve2"}, Bridges: []string{"vmbr0", "vmbr1"},
		Tokens: map[string]Token{testTokenID: {Secret: testSecret, Administrator: true}, "dev@pve!xx": Grant("x")},
	})
	l.done("POST", "/nodes/pve2/qemu", "vmid", "100", "name", "a")
	for path, want := range map[string]string{
		"/version":                   `"version":"8.4.5"`,
		"/nodes":                     `"node":"pve2"`,
		"/nodes/pve1/status":         `"pveversion":"pve-manager/8.4.5/`,
		"/nodes/pve2/qemu":           `"name":"a"`,
		"/nodes/pve1/qemu":           `[]`,
		"/nodes/pve1/network":        `"iface":"vmbr1"`,
		"/cluster/resources":         `"id":"storage/pve2/local-lvm"`,
		"/cluster/resources?type=vm": `"id":"qemu/100"`,
		"/cluster/status":            `"quorate":1`,
		"/storage":                   `"thinpool":"data"`,
		"/pools":                     `[]`,
		"/access/permissions":        `"VM.Audit":1`,
		"/nodes/pve2/qemu/100":       `"subdir":"config"`,
	} {
		if data := string(l.ok("GET", path)); !strings.Contains(data, want) {
			t.Errorf("%s: %s", path, data)
		}
	}
	l.refused(l.call("GET", "/nodes/pve1/qemu/100/config"), 500, "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist", nil)
	l.header = "PVEAPIToken=dev@pve!xx=x"
	for path, want := range map[string]string{"/nodes": `"status":"online"`, "/nodes/pve2/qemu": `[]`, "/storage": `[]`, "/cluster/resources?type=vm": `[]`, "/access/permissions": `{}`} {
		if data := string(l.ok("GET", path)); !strings.Contains(data, want) || strings.Contains(data, "maxmem") {
			t.Errorf("without privileges, %s: %s", path, data)
		}
	}
}

func TestPools(t *testing.T) {
	l := newLab(t)
	l.done("POST", "/nodes/pve/qemu", "vmid", "100")
	l.ok("POST", "/pools", "poolid", "a", "comment", "first")
	l.ok("POST", "/pools", "poolid", "b")
	l.refused(l.call("POST", "/pools", "poolid", "a"), 500, "create pool failed: pool 'a' already exists", nil)
	l.ok("PUT", "/pools/a", "vms", "100", "storage", "local")
	l.refused(l.call("PUT", "/pools/b", "vms", "100"), 500, "update pools failed: VM 100 belongs already to pool 'a' and 'allow-move' is not set", nil)
	l.ok("PUT", "/pools/b", "vms", "100", "allow-move", "1")
	l.refused(l.call("DELETE", "/pools/b"), 500, "delete pool failed: pool 'b' is not empty (contains VM 100)", nil)
	if data := string(l.ok("GET", "/pools", "poolid", "b")); !strings.Contains(data, `"id":"qemu/100"`) {
		t.Error(data)
	}
	l.done("DELETE", "/nodes/pve/qemu/100")
	l.ok("DELETE", "/pools/b")
	l.ok("PUT", "/pools", "poolid", "a", "storage", "local", "delete", "1")
	l.ok("DELETE", "/pools", "poolid", "a")
	l.refused(l.call("GET", "/pools/a"), 500, "pool 'a' does not exist", nil)
}

func TestOptions(t *testing.T) {
	valid := Options{Guests: newFakeGuests(), Dir: t.TempDir()}
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"guests":    {func(o *Options) { o.Guests = nil }, "simulated Proxmox: Options.Guests is missing"},
		"dir":       {func(o *Options) { o.Dir = "" }, "simulated Proxmox: Options.Dir is missing"},
		"node":      {func(o *Options) { o.Nodes = []string{"a_b"} }, `simulated Proxmox: node "a_b": want letters, digits and dashes`},
		"token ID":  {func(o *Options) { o.Tokens = map[string]Token{"x": {}} }, `simulated Proxmox: token "x": want user@realm!name`},
		"secret":    {func(o *Options) { o.Tokens = map[string]Token{"a@pve!bb": {}} }, `simulated Proxmox: token "a@pve!bb": secret is empty`},
		"privilege": {func(o *Options) { o.Tokens = map[string]Token{"a@pve!bb": Grant("x", "VM.GuestAgent.Audit")} }, `simulated Proxmox: token "a@pve!bb": PVE 8.4 knows no privilege "VM.GuestAgent.Audit"`},
		"storage":   {func(o *Options) { o.Storages = []Storage{{Name: "s1", Type: "zfs", Bytes: 1}} }, `simulated Proxmox: storage "s1": type "zfs" is not simulated: want dir or lvmthin`},
	} {
		t.Run(name, func(t *testing.T) {
			options := valid
			test.change(&options)
			if _, err := New(options); err == nil || err.Error() != test.want {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}
