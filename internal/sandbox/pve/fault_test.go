package pve

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func (l *lab) fault(f Fault) string {
	l.t.Helper()
	id, err := l.AddFault(f)
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

func TestFaultStatus(t *testing.T) {
	l := newLab(t)
	id := l.fault(Fault{Method: "GET", Path: "/nodes/*/status", Nth: 2, Status: 503, Reason: "got no worker upid", Errors: map[string]string{"node": "x"}})
	l.ok("GET", "/nodes/pve/status")
	l.refused(l.call("GET", "/nodes/pve/status"), 503, "got no worker upid", map[string]string{"node": "x"})
	l.ok("GET", "/nodes/pve/status")
	l.ok("GET", "/nodes")
	faults := l.Faults()
	if len(faults) != 1 || faults[0].Matched != 3 || faults[0].Fired != 1 {
		t.Errorf("faults %+v", faults)
	}
	if !l.ClearFault(id) || l.ClearFault(id) {
		t.Error("a fault is cleared once")
	}
	l.fault(Fault{Path: "/**", Times: 2, Status: 500})
	l.refused(l.call("GET", "/version"), 500, "Internal Server Error", nil)
	l.refused(l.call("GET", "/nodes"), 500, "Internal Server Error", nil)
	l.ok("GET", "/version")
	l.ClearFaults()
	requests := l.Requests()
	if last := requests[len(requests)-2]; last.Fault != "fault-2" || last.Status != 500 || last.User != testTokenID {
		t.Errorf("recorded %+v", last)
	}
}

func TestFaultDropAndDelay(t *testing.T) {
	l := newLab(t)
	l.fault(Fault{Method: "POST", Path: "/nodes/pve/qemu", Times: 1, Drop: "before"})
	l.fault(Fault{Method: "POST", Path: "/nodes/pve/qemu", Times: 1, Drop: "after"})
	if r := l.call("POST", "/nodes/pve/qemu", "vmid", "100"); r.err == nil {
		t.Errorf("got %d", r.status)
	}
	if n := len(l.Inventory().Machines); n != 0 {
		t.Errorf("%d machines after a call dropped before", n)
	}
	if r := l.call("POST", "/nodes/pve/qemu", "vmid", "100"); r.err == nil {
		t.Errorf("got %d", r.status)
	}
	if n := len(l.Inventory().Machines); n != 1 {
		t.Errorf("%d machines after a call dropped after", n)
	}
	l.fault(Fault{Path: "/version", Delay: Duration(50 * time.Millisecond)})
	start := time.Now()
	l.ok("GET", "/version")
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

func TestFaultTasks(t *testing.T) {
	l := withMachineLab(t)
	l.fault(Fault{Path: "/nodes/pve/qemu/101/status/start", Times: 1, TaskExit: "WARNINGS: 1"})
	if exit := l.task("POST", vm101+"/status/start"); exit != "WARNINGS: 1" {
		t.Errorf("exit %q", exit)
	}
	if _, on := l.guests.running(101); !on {
		t.Error("a task with warnings does its work")
	}
	l.fault(Fault{Path: "/nodes/pve/qemu/101/status/stop", Times: 1, TaskExit: "can't lock file"})
	if exit := l.task("POST", vm101+"/status/stop"); exit != "can't lock file" {
		t.Errorf("exit %q", exit)
	}
	if _, on := l.guests.running(101); !on {
		t.Error("a failed task does nothing")
	}
	l.fault(Fault{Method: "POST", Path: "/nodes/pve/qemu", Times: 1, TaskExit: "unable to create VM 102 - some reason"})
	if exit := l.task("POST", "/nodes/pve/qemu", "vmid", "102"); exit != "unable to create VM 102 - some reason" {
		t.Errorf("exit %q", exit)
	}
	l.done("POST", "/nodes/pve/qemu", "vmid", "102")
	if _, on := l.guests.running(102); on {
		t.Error("nobody started it")
	}
	l.fault(Fault{Path: "/nodes/pve/qemu/102", Method: "DELETE", TaskDelay: Duration(300 * time.Millisecond)})
	start := time.Now()
	upid := l.ok("DELETE", "/nodes/pve/qemu/102")
	if took := time.Since(start); took > 250*time.Millisecond {
		t.Errorf("the answer waited %v for a slow task", took)
	}
	status := decode[map[string]any](t, l.ok("GET", "/nodes/pve/tasks/"+decode[string](t, upid)+"/status"))
	if status["status"] != "running" || status["exitstatus"] != nil {
		t.Errorf("status %v", status)
	}
	if exit := l.wait(upid); exit != "OK" {
		t.Errorf("exit %q", exit)
	}
}

func TestFaultAgent(t *testing.T) {
	l := withMachineLab(t)
	const path = vm101 + "/agent/network-get-interfaces"
	l.refused(l.call("GET", path), 500, "VM 101 is not running", nil)
	l.done("POST", vm101+"/status/start")
	l.fault(Fault{AgentSilent: true, Times: 2})
	l.fault(Fault{LinkLocalOnly: true, Times: 1})
	l.refused(l.call("GET", path), 500, "QEMU guest agent is not running", nil)
	l.refused(l.call("GET", path), 500, "QEMU guest agent is not running", nil)
	if data := string(l.ok("GET", path)); strings.Contains(data, "192.0.2.11") || !strings.Contains(data, "fe80::1") {
		t.Errorf("link-local first: %s", data)
	}
	type address struct {
		IP     string `json:"ip-address"`
		Type   string `json:"ip-address-type"`
		Prefix int
	}
	data := decode[struct {
		Result []struct {
			Name      string
			MAC       string    `json:"hardware-address"`
			Addresses []address `json:"ip-addresses"`
		}
	}](t, l.ok("GET", path))
	eth0 := data.Result[1]
	want := []address{{"192.0.2.11", "ipv4", 24}, {"fe80::1", "ipv6", 64}}
	if diff := cmp.Diff(want, eth0.Addresses); diff != "" || eth0.MAC != "bc:24:11:00:00:01" || data.Result[0].Name != "lo" {
		t.Errorf("%+v\n%s", data, diff)
	}
	l.GuestStopped(101)
	l.refused(l.call("GET", path), 500, "VM 101 is not running", nil)
}

func TestFaultValidation(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "fault: it has no effect: set status, delay, drop, taskDelay, taskExit, agentSilent or linkLocalOnly",
		`{"status":200,"method":"get","path":"nodes"}`:           `fault: method "get": want GET, POST, PUT or DELETE; path "nodes": want a leading slash; status 200: want 400 to 599`,
		`{"reason":"x","drop":"now","nth":-1,"taskDelay":"-1s"}`: `fault: nth -1, times 0: want 0 or more; reason and errors need a status; drop "now": want before or after; delays must not be negative`,
		`{"status":500,"path":"/[","reason":"a\nb"}`:             `fault: path "/[": syntax error in pattern; reason "a\nb": want one line`,
		`{"state":500}`: `fault: json: unknown field "state"`,
	} {
		if _, err := ParseFault([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	f := Fault{Path: "/version", Delay: Duration(1500 * time.Millisecond), Times: 3}
	raw, err := json.Marshal(f)
	if err != nil || string(raw) != `{"path":"/version","times":3,"delay":"1.5s"}` {
		t.Errorf("%s, %v", raw, err)
	}
	if parsed, err := ParseFault(raw); err != nil || !cmp.Equal(parsed, f) {
		t.Errorf("%+v, %v", parsed, err)
	}
}

func TestRequestsRedacted(t *testing.T) {
	l := newLab(t)
	l.call("POST", "/nodes/pve/qemu", "vmid", "100", "cipassword", "hunter2", "name", "x")
	raw, err := json.Marshal(l.Requests())
	if err != nil {
		t.Fatal(err)
	}
	if text := string(raw); strings.Contains(text, "hunter2") || strings.Contains(text, testSecret) || !strings.Contains(text, `"name":"x"`) {
		t.Error(text)
	}
	l.ClearRequests()
	if n := len(l.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	if r := l.call("GET", "/version", "x", "1"); r.status != http.StatusBadRequest {
		t.Error(r.status)
	}
	if last := l.Requests()[0]; last.Params["x"] != "1" || last.Status != 400 {
		t.Errorf("%+v", last)
	}
}
