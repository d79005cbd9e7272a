package pve

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var updateGolden = flag.Bool("update", false, "rewrite golden files")

// volatile replaces what differs from run to run.
var volatile = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|"digest": "[0-9a-f]{40}"|ctime=\d+`)

func TestGoldenTalosConfig(t *testing.T) {
	l := withMachineLab(t)
	raw := l.ok("GET", "/nodes/pve/qemu/101/config")
	indented, err := json.MarshalIndent(decode[map[string]any](t, raw), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got := volatile.ReplaceAllString(string(indented), "…") + "\n"
	golden := filepath.Join("testdata", "talos-config.json")
	if *updateGolden {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestLifecycle(t *testing.T) {
	l := withMachineLab(t)
	l.done("POST", "/nodes/pve/qemu/101/status/start", "timeout", "1800")
	hw, on := l.guests.running(101)
	if !on {
		t.Fatal("guest is off")
	}
	iso := hw.ISO["ide2"]
	if content, err := os.ReadFile(iso); err != nil || string(content) != isoContent {
		t.Errorf("ISO %q: %q, %v", iso, content, err)
	}
	hw.ISO, hw.UUID = nil, ""
	want := Hardware{
		VMID: 101, Node: "pve", Name: "cp-1", Cores: 4, Memory: 8192, CPU: "host", UEFI: true,
		EFIVolume: "local-lvm:vm-101-disk-0", TPMVolume: "local-lvm:vm-101-disk-2", BootOrder: []string{"scsi0", "ide2"},
		Disks: []Disk{{Device: "scsi0", Volume: "local-lvm:vm-101-disk-1", Bytes: 32 << 30}},
		NICs:  []NIC{{MAC: "BC:24:11:00:00:01", Bridge: "vmbr0"}}, Agent: true,
	}
	if diff := cmp.Diff(want, hw); diff != "" {
		t.Error(diff)
	}
	status := decode[map[string]any](t, l.ok("GET", "/nodes/pve/qemu/101/status/current"))
	if status["status"] != "running" || status["agent"] != 1.0 || status["maxdisk"] != float64(32<<30) {
		t.Errorf("status %v", status)
	}
	l.refused(l.call("DELETE", "/nodes/pve/qemu/101/"), http.StatusInternalServerError, "VM 101 is running - destroy failed", nil)
	if exit := l.task("POST", "/nodes/pve/qemu/101/status/start"); exit != "VM 101 already running" {
		t.Errorf("second start: %q", exit)
	}
	l.done("POST", "/nodes/pve/qemu/101/status/shutdown", "forceStop", "1", "timeout", "1800")
	if _, on := l.guests.running(101); on {
		t.Error("guest is still on")
	}
	l.done("DELETE", "/nodes/pve/qemu/101/", "destroy-unreferenced-disks", "1", "purge", "1")
	l.refused(l.call("GET", "/nodes/pve/qemu/101/status/current"), http.StatusInternalServerError,
		"Configuration file 'nodes/pve/qemu-server/101.conf' does not exist", nil)
	l.done("DELETE", "/nodes/pve/storage/local/content/local:iso%2Ftalos.iso")
	if inventory := l.Inventory(); len(inventory.Machines)+len(inventory.Volumes) != 0 {
		t.Errorf("left over: %+v", inventory)
	}
	if diff := cmp.Diff([]int{101}, l.guests.destroyed); diff != "" {
		t.Error(diff)
	}
}
