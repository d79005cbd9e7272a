package pve

import (
	"net/http"
	"strings"
	"testing"
)

const vm101 = "/nodes/pve/qemu/101"

func (l *lab) config(params ...string) map[string]any {
	l.t.Helper()
	return decode[map[string]any](l.t, l.ok("GET", vm101+"/config", params...))
}

func TestConfigPending(t *testing.T) {
	l := withMachineLab(t)
	l.done("POST", vm101+"/status/start")
	l.ok("PUT", vm101+"/config", "name", "cp-2", "cores", "6", "memory", "4096", "delete", "vcpus,cpulimit", "tags", "Z;b;B", "description", "x")
	if config := l.config(); config["cores"] != 6.0 || config["memory"] != "4096" || config["name"] != "cp-2" || config["tags"] != "b;z" {
		t.Errorf("config %v", config)
	}
	if config := l.config("current", "1"); config["cores"] != 4.0 || config["memory"] != "8192" || config["name"] != "cp-2" {
		t.Errorf("current config %v", config)
	}
	pending := string(l.ok("GET", vm101+"/pending"))
	if !strings.Contains(pending, `{"key":"cores","pending":6,"value":4}`) {
		t.Errorf("pending %s", pending)
	}
	status := decode[map[string]any](t, l.ok("GET", vm101+"/status/current"))
	if status["cpus"] != 4.0 || status["maxmem"] != float64(8192<<20) {
		t.Errorf("status %v", status)
	}
	l.ok("PUT", vm101+"/config", "delete", "cores")
	if config := l.config(); config["cores"] != nil {
		t.Errorf("deleted cores: %v", config["cores"])
	}
	l.ok("PUT", vm101+"/config", "cores", "8")
	l.done("POST", vm101+"/status/reboot", "timeout", "30")
	if hw, _ := l.guests.running(101); hw.Cores != 8 || hw.Memory != 4096 || len(l.guests.started) != 2 {
		t.Errorf("hardware after the reboot: %+v", hw)
	}
	if config := l.config("current", "1"); config["cores"] != 8.0 {
		t.Errorf("cores %v", config["cores"])
	}
	l.ok("PUT", vm101+"/config", "cores", "2")
	l.ok("PUT", vm101+"/config", "revert", "cores")
	if config := l.config(); config["cores"] != 8.0 {
		t.Errorf("reverted cores %v", config["cores"])
	}
}

func TestConfigRefusals(t *testing.T) {
	l := withMachineLab(t)
	put := func(params ...string) reply { return l.call("PUT", vm101+"/config", params...) }
	l.refused(put(), http.StatusInternalServerError, "no options specified", nil)
	l.refused(put("cores", "1", "digest", strings.Repeat("0", 40)), http.StatusInternalServerError, "checksum mismatch (file change by other user?)", nil)
	l.refused(put("delete", "nope"), http.StatusBadRequest, "Parameter verification failed.", map[string]string{"delete": "unknown option 'nope'"})
	l.refused(put("cores", "1", "delete", "cores"), http.StatusBadRequest, "Parameter verification failed.", map[string]string{
		"delete": "you can't use '-cores' and -delete cores' at the same time",
	})
	l.refused(put("boot", "order=scsi5"), http.StatusInternalServerError, "invalid bootorder: device 'scsi5' does not exist'", nil)
	l.refused(put("balloon", "9000"), http.StatusInternalServerError, "balloon value too large (must be smaller than assigned memory)", nil)
	l.refused(put("skiplock", "1"), http.StatusBadRequest, "Parameter verification failed.", map[string]string{"skiplock": "Only root may use this option."})
	l.refused(put("tpmstate0", "local-lvm:vm-101-disk-2,version=v1.2"), http.StatusInternalServerError, "cannot change TPM state version after creation", nil)
	l.refused(put("ide2", "local:iso/none.iso,media=cdrom"), http.StatusInternalServerError, "volume local:iso/none.iso does not exist", nil)
	l.refused(l.call("PUT", "/nodes/pve/qemu/100/config", "cores", "1"), http.StatusInternalServerError,
		"Configuration file 'nodes/pve/qemu-server/100.conf' does not exist", nil)
	digest := l.config()["digest"].(string)
	l.ok("PUT", vm101+"/config", "cores", "1", "digest", digest)
	if l.config()["digest"] == digest {
		t.Error("the digest did not change")
	}
	l.done("POST", vm101+"/config", "cores", "3")
	if l.config()["cores"] != 3.0 {
		t.Error("POST config did not change the cores")
	}
}

func TestEjectWithoutReboot(t *testing.T) {
	l := withMachineLab(t)
	l.done("POST", vm101+"/status/start")
	l.ok("PUT", vm101+"/config", "name", "cp-1", "ide2", "file=none,media=cdrom")
	if ide2 := l.config("current", "1")["ide2"]; ide2 != "none,media=cdrom" {
		t.Errorf("ide2 %v", ide2)
	}
	if len(l.guests.started) != 1 {
		t.Error("the guest was restarted")
	}
	l.ok("PUT", vm101+"/config", "cdrom", "local:iso/talos.iso")
	if ide2 := l.config()["ide2"]; ide2 != "local:iso/talos.iso,media=cdrom,size=18" {
		t.Errorf("ide2 %v", ide2)
	}
}

func TestProtection(t *testing.T) {
	l := withMachineLab(t)
	l.ok("PUT", vm101+"/config", "protection", "1")
	l.refused(l.call("DELETE", vm101), http.StatusInternalServerError, "can't remove VM 101 - protection mode enabled", nil)
	l.refused(l.call("PUT", vm101+"/config", "delete", "efidisk0"), http.StatusInternalServerError, "can't remove drive 'efidisk0' - protection mode enabled", nil)
	l.ok("PUT", vm101+"/config", "protection", "0")
	l.done("DELETE", vm101)
}

func TestDiskRemovalAndReplacement(t *testing.T) {
	l := withMachineLab(t)
	l.ok("PUT", vm101+"/config", "delete", "efidisk0")
	if config := l.config(); config["efidisk0"] != nil || config["unused0"] != "local-lvm:vm-101-disk-0" {
		t.Errorf("config %v", config)
	}
	l.ok("PUT", vm101+"/config", "delete", "unused0")
	l.ok("PUT", vm101+"/config", "efidisk0", "local-lvm:1,efitype=4m,pre-enrolled-keys=1")
	l.done("POST", vm101+"/status/start")
	hw, _ := l.guests.running(101)
	if hw.EFIVolume != "local-lvm:vm-101-disk-0~2" || !hw.PreEnrolledKeys {
		t.Errorf("a replaced EFI disk is told apart by its volume: %q, %v", hw.EFIVolume, hw.PreEnrolledKeys)
	}
	l.ok("PUT", vm101+"/config", "delete", "tpmstate0", "force", "1")
	if l.config()["tpmstate0"] != nil || l.config("current", "1")["tpmstate0"] == nil {
		t.Error("a TPM is removed when the machine stops")
	}
	l.done("POST", vm101+"/status/stop")
	for _, v := range l.Inventory().Volumes {
		if v.ID == "local-lvm:vm-101-disk-2" {
			t.Error("the TPM's volume is still there")
		}
	}
}

func TestResize(t *testing.T) {
	l := withMachineLab(t)
	resize := func(disk, size string) string {
		return l.task("PUT", vm101+"/resize", "disk", disk, "size", size)
	}
	for _, test := range []struct{ disk, size, exit string }{
		{"scsi0", "64G", "OK"},
		{"scsi0", "+1G", "OK"},
		{"scsi0", "1G", "shrinking disks is not supported"},
		{"scsi7", "1G", "disk 'scsi7' does not exist"},
		{"ide2", "1G", "you can't resize a cdrom"},
	} {
		if exit := resize(test.disk, test.size); exit != test.exit {
			t.Errorf("resize %s to %s: %q, want %q", test.disk, test.size, exit, test.exit)
		}
	}
	if scsi0 := l.config()["scsi0"].(string); !strings.Contains(scsi0, "size=65G") {
		t.Errorf("scsi0 %s", scsi0)
	}
}

func TestCreateRefusals(t *testing.T) {
	l := withMachineLab(t)
	create := func(changes ...string) reply {
		return l.call("POST", "/nodes/pve/qemu", with(talosForm(102), changes...)...)
	}
	l.refused(l.call("POST", "/nodes/pve/qemu", talosForm(101)...), http.StatusInternalServerError,
		"unable to create VM 101 - VM 101 already exists on node 'pve'", nil)
	l.refused(create("scsi0", "nope:32"), http.StatusInternalServerError, "storage 'nope' does not exist", nil)
	l.refused(create("ide2", "nope:iso/x.iso,media=cdrom"), http.StatusInternalServerError, "storage 'nope' does not exist", nil)
	l.refused(create("scsi0", "local:32"), http.StatusBadRequest, "Parameter verification failed.", map[string]string{
		"storage": "storage 'local' does not support vm images",
	})
	l.refused(l.call("GET", "/cluster/nextid", "vmid", "101"), http.StatusBadRequest, "Parameter verification failed.", map[string]string{
		"vmid": "VM 101 already exists",
	})
	if next := decode[string](t, l.ok("GET", "/cluster/nextid")); next != "100" {
		t.Errorf("next ID %q", next)
	}
	for _, test := range []struct {
		name    string
		changes []string
		exit    string
	}{
		{
			"qcow2 on LVM",
			[]string{"scsi0", "file=local-lvm:32,format=qcow2"},
			"unable to create VM 102 - unsupported format 'qcow2' at /usr/share/perl5/PVE/Storage/LvmThinPlugin.pm line 88.",
		},
		{"missing ISO", []string{"ide2", "local:iso/none.iso,media=cdrom"}, "unable to create VM 102 - volume local:iso/none.iso does not exist"},
	} {
		r := create(test.changes...)
		if exit := l.wait(r.body.Data); exit != test.exit {
			t.Errorf("%s: %q, want %q", test.name, exit, test.exit)
		}
	}
	if err := l.SetStorageFull("local-lvm", true); err != nil {
		t.Fatal(err)
	}
	want := "unable to create VM 102 - lvcreate 'pve/vm-102-disk-0' error: Cannot create new thin volume, free space in thin pool pve/data reached threshold."
	if exit := l.wait(create().body.Data); exit != want {
		t.Errorf("full pool: %q", exit)
	}
	inventory := l.Inventory()
	if len(inventory.Machines) != 1 || len(inventory.Volumes) != 4 {
		t.Errorf("failed creations left something: %+v", inventory)
	}
}

func TestStartFailures(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		changes []string
		exit    string
		log     string
	}{
		{
			"q35 with ide3",
			Options{},
			[]string{"ide2", "", "ide3", "local:iso/talos.iso,media=cdrom", "boot", "order=scsi0;ide3"},
			"start failed: QEMU exited with code 1",
			"kvm: -device ide-cd,bus=ide.1,unit=1,drive=drive-ide3,id=ide3: Can't create IDE unit 1, bus supports only 1 units",
		},
		{
			"q35 with ide3 on a current node",
			Options{FixedQ35IDE: true},
			[]string{"ide2", "", "ide3", "local:iso/talos.iso,media=cdrom", "boot", "order=scsi0;ide3"},
			"OK", "",
		},
		{"missing bridge", Options{}, []string{"net0", "virtio,bridge=vmbr9"}, "start failed: QEMU exited with code 1", "bridge 'vmbr9' does not exist"},
		{"too many cores", Options{CPUs: 2}, nil, "MAX 2 vcpus allowed per VM on this node", ""},
		{"too much memory", Options{Memory: 1 << 30}, nil, "start failed: QEMU exited with code 1", "Cannot allocate memory"},
		{"template", Options{}, []string{"template", "1"}, "you can't start a vm if it's a template", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.options.Tokens = map[string]Token{testTokenID: {Secret: testSecret, Administrator: true}}
			l := newLabWith(t, test.options)
			l.download()
			l.done("POST", "/nodes/pve/qemu", with(talosForm(101), test.changes...)...)
			upid := decode[string](t, l.ok("POST", vm101+"/status/start"))
			if exit := l.wait([]byte(`"` + upid + `"`)); exit != test.exit {
				t.Errorf("exit %q, want %q", exit, test.exit)
			}
			if log := string(l.ok("GET", "/nodes/pve/tasks/"+upid+"/log")); !strings.Contains(log, test.log) {
				t.Errorf("log %s lacks %q", log, test.log)
			}
			if _, on := l.guests.running(101); on != (test.exit == "OK") {
				t.Errorf("guest on: %v", on)
			}
		})
	}
}

func TestMachinesWithoutDetails(t *testing.T) {
	l := newLab(t)
	l.done("POST", "/nodes/pve/qemu", "vmid", "101", "scsi0", "local-lvm:1", "net0", "virtio,bridge=vmbr0", "start", "1")
	config := l.config()
	if config["boot"] != "order=scsi0;net0" {
		t.Errorf("boot %v", config["boot"])
	}
	if net0 := config["net0"].(string); !strings.HasPrefix(net0, "virtio=BC:24:11:") || !strings.HasSuffix(net0, ",bridge=vmbr0") {
		t.Errorf("net0 %s", net0)
	}
	if _, on := l.guests.running(101); !on {
		t.Error("the machine was not started")
	}
	l.refused(l.call("GET", vm101+"/agent/network-get-interfaces"), http.StatusInternalServerError, "No QEMU guest agent configured", nil)
}
