package pve

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestAuthentication(t *testing.T) {
	l := newLab(t)
	for name, test := range map[string]struct{ header, reason string }{
		"none":          {"", "No ticket"},
		"another kind":  {"Bearer x", "No ticket"},
		"no secret":     {"PVEAPIToken=sim@pve!ci", "no tokenid specified"},
		"no token":      {"PVEAPIToken=sim@pve=x", "'sim@pve' is not a valid token ID - not able to split into user and token parts"},
		"unknown user":  {"PVEAPIToken=you@pve!ci=x", "no such user ('you@pve')"},
		"unknown token": {"PVEAPIToken=sim@pve!cd=x", "no such token 'cd' for user 'sim@pve'"},
		"wrong secret":  {"PVEAPIToken=sim@pve!ci=x", "invalid token value!"},
	} {
		t.Run(name, func(t *testing.T) {
			l.t, l.header = t, test.header
			l.refused(l.call("GET", "/version"), http.StatusUnauthorized, test.reason, nil)
		})
	}
	l.t, l.header = t, "PVEAPIToken="+testTokenID+"="+testSecret
	l.ok("GET", "/version")
	if err := l.SetTokenRevoked(testTokenID, true); err != nil {
		t.Fatal(err)
	}
	l.refused(l.call("GET", "/version"), http.StatusUnauthorized, "no such token 'ci' for user 'sim@pve'", nil)
	if err := l.SetTokenRevoked(testTokenID, false); err != nil {
		t.Fatal(err)
	}
	l.ok("GET", "/version")
	if err := l.SetTokenRevoked("x@pve!y", true); err == nil {
		t.Error("an unknown token was revoked")
	}
}

func TestPermissionPropagation(t *testing.T) {
	l := newLabWith(t, Options{Tokens: map[string]Token{testTokenID: {Secret: testSecret, ACL: []ACL{
		{Path: "/", Privileges: []string{"VM.Audit", "Sys.Audit"}},
		{Path: "/vms", Privileges: []string{"VM.Allocate"}},
		{Path: "/vms/101", Privileges: []string{"VM.Audit", "VM.PowerMgmt"}, NoPropagate: true},
		{Path: "/nodes", Privileges: []string{"Sys.Modify"}, NoPropagate: true},
	}}}})
	for _, test := range []struct {
		path string
		want string
	}{
		{"/", "Sys.Audit VM.Audit"},
		{"/vms", "VM.Allocate"},
		{"/vms/100", "VM.Allocate"},
		{"/vms/101", "VM.Audit VM.PowerMgmt"},
		{"/nodes", "Sys.Modify"},
		{"/nodes/pve", "Sys.Audit VM.Audit"},
		{"/storage/local", "Sys.Audit VM.Audit"},
	} {
		held := decode[map[string]map[string]int](t, l.ok("GET", "/access/permissions", "path", test.path))
		if got := strings.Join(sortedKeys(held[test.path]), " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.path, got, test.want)
		}
	}
	l.refused(l.call("GET", "/nodes/pve/qemu/100/config"), http.StatusForbidden, "Permission check failed (/vms/100, VM.Audit)", nil)
}

func TestPermissionThroughPool(t *testing.T) {
	l := newLabWith(t, Options{Tokens: map[string]Token{
		testTokenID:  {Secret: testSecret, Administrator: true},
		"dev@pve!xx": {Secret: "x", ACL: []ACL{{Path: "/pool/lab", Privileges: []string{"VM.Audit", "VM.Allocate"}}}},
	}})
	l.ok("POST", "/pools", "poolid", "lab")
	l.done("POST", "/nodes/pve/qemu", "vmid", "100", "pool", "lab")
	l.done("POST", "/nodes/pve/qemu", "vmid", "101")
	l.header = "PVEAPIToken=dev@pve!xx=x"
	l.ok("GET", "/nodes/pve/qemu/100/config")
	l.refused(l.call("GET", "/nodes/pve/qemu/101/config"), http.StatusForbidden, "Permission check failed (/vms/101, VM.Audit)", nil)
	l.done("POST", "/nodes/pve/qemu", "vmid", "102", "pool", "lab")
	l.refused(l.call("POST", "/nodes/pve/qemu", "vmid", "103"), http.StatusForbidden, "Permission check failed", nil)
	l.refused(l.call("POST", "/nodes/pve/qemu", "vmid", "103", "pool", "nope"), http.StatusForbidden,
		"Permission check failed (pool 'nope' does not exist)", nil)
}

// program makes the calls that the bpg provider makes over a machine's life and returns the first refusal.
func program(l *lab) error {
	l.t.Helper()
	run := func(method, path string, params ...string) error {
		r := l.call(method, path, params...)
		if r.err != nil {
			return r.err
		}
		if r.status != http.StatusOK {
			return fmt.Errorf("%s %s: %d %s %v", method, path, r.status, r.reason, r.body.Errors)
		}
		if upid := string(r.body.Data); strings.HasPrefix(upid, `"UPID:`) {
			if exit := l.wait(r.body.Data); exit != "OK" {
				return fmt.Errorf("%s %s: task: %s", method, path, exit)
			}
		}
		return nil
	}
	has := func(path, what string) error {
		r := l.call("GET", path)
		if r.err != nil || r.status != http.StatusOK {
			return fmt.Errorf("GET %s: %d %s", path, r.status, r.reason)
		}
		if !strings.Contains(string(r.body.Data), what) {
			return fmt.Errorf("GET %s: no %s in %s", path, what, r.body.Data)
		}
		return nil
	}
	const vm = "/nodes/pve/qemu/101"
	download := []string{
		"content", "iso", "filename", "talos.iso", "node", "pve", "storage", "local", "url", l.web.URL + "/image/talos.iso", "verify-certificates", "1",
	}
	for _, step := range []func() error{
		func() error {
			return run("GET", "/nodes/pve/query-url-metadata", "url", l.web.URL+"/image/talos.iso", "verify-certificates", "1")
		},
		func() error { return run("POST", "/nodes/pve/storage/local/download-url", download...) },
		func() error { return has("/nodes/pve/storage/local/content", "local:iso/talos.iso") },
		func() error { return run("POST", "/nodes/pve/qemu", talosForm(101)...) },
		func() error { return run("POST", vm+"/status/start", "timeout", "1800") },
		func() error { return has(vm+"/status/current", `"running"`) },
		func() error { return has("/cluster/resources?type=vm", "qemu/101") },
		func() error { return run("GET", vm+"/config") },
		func() error { return run("GET", "/nodes/pve/storage/local-lvm/content/local-lvm:vm-101-disk-0") },
		func() error { return run("GET", vm+"/agent/network-get-interfaces") },
		func() error {
			return run("PUT", vm+"/config", "name", "cp-1", "cores", "6", "sockets", "1", "cpuunits", "1024", "numa", "0", "cpu", "cputype=host", "delete", "vcpus,cpulimit")
		},
		func() error { return run("PUT", vm+"/config", "name", "cp-1", "memory", "4096", "balloon", "0") },
		func() error {
			return run("PUT", vm+"/config", "name", "cp-1", "tags", "c", "ide2", "file=none,media=cdrom")
		},
		func() error {
			return run("PUT", vm+"/config", "name", "cp-1", "net0", "model=virtio,bridge=vmbr0,firewall=0,macaddr=BC:24:11:00:00:01,mtu=1500")
		},
		func() error { return run("PUT", vm+"/resize", "disk", "scsi0", "size", "64G") },
		func() error { return run("POST", vm+"/status/reboot", "timeout", "1800") },
		func() error { return run("POST", vm+"/status/shutdown", "forceStop", "1", "timeout", "1800") },
		func() error { return run("DELETE", vm+"/", "destroy-unreferenced-disks", "1", "purge", "1") },
		func() error { return run("DELETE", "/nodes/pve/storage/local/content/local:iso%2Ftalos.iso") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestMinimalRole(t *testing.T) {
	if err := program(newLab(t, MinimalRole()...)); err != nil {
		t.Fatal(err)
	}
	for i, privilege := range MinimalRole() {
		t.Run("without "+privilege, func(t *testing.T) {
			l := newLab(t, slices.Delete(MinimalRole(), i, i+1)...)
			err := program(l)
			if err == nil {
				t.Fatalf("%s is not needed", privilege)
			}
			named := strings.Contains(err.Error(), privilege) || strings.Contains(err.Error(), "403 Permission check failed") ||
				strings.Contains(err.Error(), "no qemu/101")
			if !named {
				t.Errorf("refused for another reason: %v", err)
			}
		})
	}
}

func TestMethodPermissions(t *testing.T) {
	const vm = "/nodes/pve/qemu/101"
	for _, test := range []struct {
		name   string
		held   []string
		call   []string // method, path, parameters
		reason string
	}{
		{"or without details", []string{"Sys.Audit"}, []string{"GET", "/nodes/pve/query-url-metadata", "url", "http://x/y"}, "Permission check failed"},
		{"and", []string{"Sys.AccessNetwork"}, []string{"POST", "/nodes/pve/storage/local/download-url"}, "Permission check failed (/storage/local, Datastore.AllocateTemplate)"},
		{"any", nil, []string{"GET", "/nodes/pve/storage/local/content"}, "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)"},
		{"ISO deletion", []string{"Datastore.AllocateTemplate"}, []string{"DELETE", "/nodes/pve/storage/local/content/iso/x.iso"}, "Permission check failed (/storage/local, Datastore.Allocate)"},
		{"pool", nil, []string{"POST", "/pools", "poolid", "x"}, "Permission check failed (/pool/x, Pool.Allocate)"},
		{"copying a volume", Privileges(), []string{"POST", "/nodes/pve/storage/local/content/iso/x.iso", "target", "y"}, "Permission check failed"},
		{"bridge", []string{"VM.Allocate", "VM.Config.Network"}, []string{"POST", "/nodes/pve/qemu", "vmid", "101", "net0", "virtio,bridge=vmbr0"}, "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)"},
		{"VLAN", []string{"VM.Allocate", "VM.Config.Network"}, []string{"POST", "/nodes/pve/qemu", "vmid", "101", "net0", "virtio,bridge=vmbr0,tag=7"}, "Permission check failed (/sdn/zones/localnetwork/vmbr0/7, SDN.Use)"},
		{"new disk", []string{"VM.Allocate"}, []string{"POST", "/nodes/pve/qemu", "vmid", "101", "scsi0", "local-lvm:1"}, "Permission check failed (/storage/local-lvm, Datastore.AllocateSpace)"},
		{"startup order", []string{"VM.Allocate", "VM.Config.Options"}, []string{"POST", "/nodes/pve/qemu", "vmid", "101", "startup", "order=1"}, "Permission check failed (/, Sys.Modify)"},
		{"start", []string{"VM.Audit"}, []string{"POST", vm + "/status/start"}, "Permission check failed (/vms/101, VM.PowerMgmt)"},
		{"agent", []string{"VM.Audit"}, []string{"GET", vm + "/agent/network-get-interfaces"}, "Permission check failed (/vms/101, VM.Monitor)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, append([]string{"Mapping.Audit"}, test.held...)...)
			l.refused(l.call(test.call[0], test.call[1], test.call[2:]...), http.StatusForbidden, test.reason, nil)
		})
	}
}

func TestRootOnlyOptions(t *testing.T) {
	l := newLab(t)
	for option, text := range map[string]string{
		"args": "-nodefaults", "affinity": "0,1", "hookscript": "local:snippets/x", "lock": "backup", "vmgenid": "1", "arch": "x86_64",
	} {
		l.refused(l.call("POST", "/nodes/pve/qemu", "vmid", "100", option, text), http.StatusInternalServerError,
			"only root can set '"+option+"' config", nil)
	}
	l.refused(l.call("POST", "/nodes/pve/qemu", "vmid", "100", "serial0", "/dev/ttyS0"), http.StatusInternalServerError,
		"only root can set 'serial0' config for real devices", nil)
	l.refused(l.call("POST", "/nodes/pve/qemu", "vmid", "100", "hostpci0", "01:00.0"), http.StatusInternalServerError,
		"only root can set 'hostpci0' config for non-mapped devices", nil)
}
