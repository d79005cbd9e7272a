package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config/machine"
)

// TestTalosctl drives the machines with the real command line tool, named by CLOUDLAB_TALOSCTL.
func TestTalosctl(t *testing.T) {
	binary := os.Getenv("CLOUDLAB_TALOSCTL")
	if binary == "" {
		t.Skip("CLOUDLAB_TALOSCTL names no talosctl")
	}
	l := newLab(t)
	dir := t.TempDir()
	talosconfig := filepath.Join(dir, "talosconfig")
	if err := l.talosconfig("192.0.2.11").Save(talosconfig); err != nil {
		t.Fatal(err)
	}
	raw := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+l.lan.ProxyURL(), "HOME="+dir, "TALOSCONFIG="+talosconfig)
		out, err := cmd.CombinedOutput()
		t.Logf("talosctl %s\n%s", strings.Join(args, " "), out)
		return string(out), err
	}
	run := func(node, want string, args ...string) {
		t.Helper()
		out, err := raw(append([]string{"-n", node}, args...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("talosctl %s: %v, want %q in\n%s", strings.Join(args, " "), err, want, out)
		}
	}

	l.powerOn(qemu(101))
	l.phase(101, PhaseMaintenance)
	first := l.agentAddress(101)
	run(first, "true", "get", "securitystate", "--insecure")
	run(first, "QEMU HARDDISK", "get", "disks", "--insecure")
	run(first, "Tag:", "version", "--insecure")
	configFile := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(configFile, l.config(machine.TypeControlPlane, 101, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	run(first, "", "apply-config", "--insecure", "--file", configFile)
	l.phase(101, PhaseRunning)
	l.install(qemu(201), l.config(machine.TypeWorker, 201, 21))
	l.phase(201, PhaseRunning)

	const node = "192.0.2.11"
	run(node, "", "bootstrap")
	if out, err := raw("-n", node, "bootstrap"); err == nil || !strings.Contains(out, "etcd data directory is not empty") {
		t.Errorf("second bootstrap: %v", err)
	}
	eventually(t, "etcd", func() error { return unless(l.status(101).Bootstrapped, "no etcd") })
	eventually(t, "worker", func() error { _, err := l.secure("192.0.2.21").Version(t.Context()); return err })
	run(node, "v1.13.9", "version")
	run("192.0.2.11,192.0.2.21", "192.0.2.21", "version")
	run(node, "MachineConfig", "get", "machineconfig")
	run(node, "node-201", "get", "members")
	run(node, "SecurityState", "get", "securitystate")
	run(node, "luks2", "get", "volumestatus", "EPHEMERAL", "-o", "yaml")
	run(node, "EPHEMERAL", "get", "volumestatus")
	run(node, "sda", "get", "disks")
	run(node, "sda", "get", "systemdisk")
	run(node, "qemu-guest-agent", "get", "extensions")
	run(node, "machinestatuses.runtime.talos.dev", "get", "rd")
	run(node, "192.0.2.11/24", "get", "addresses")
	run(node, "enp6s18", "get", "links")
	run(node, "running", "get", "machinestatus")
	run(node, "ext-qemu-guest-agent", "services")
	run(node, "HEALTH", "service", "etcd")
	run(node, "node-101", "etcd", "members")
	run(node, "MEMBER", "etcd", "status")
	run(node, "bootstrap request received", "logs", "machined")
	run(node, "booting Talos", "dmesg")
	run(node, "NODE", "memory")
	run(node, "NODE", "time")
	kubeconfig := filepath.Join(dir, "kubeconfig")
	run(node, "", "kubeconfig", kubeconfig)
	if _, err := os.Stat(kubeconfig); err != nil {
		t.Error(err)
	}
	if out, err := raw("-n", node, "health", "--wait-timeout", "5s"); err == nil || !strings.Contains(out, "the machines are healthy") {
		t.Errorf("health: %v", err)
	}
	run(node, "", "reboot", "--wait=false")
	l.phase(101, PhaseRunning)
	eventually(t, "etcd", func() error { return unless(l.status(101).Bootstrapped, "no etcd") })
	run(node, "", "reboot", "--timeout", "20s")
	eventually(t, "etcd", func() error { return unless(l.status(101).Bootstrapped, "no etcd") })
	run(node, "", "upgrade", "--image", newer, "--drain=false", "--timeout", "20s")
	eventually(t, "new version", func() error { return unless(l.status(101).Version == "v1.13.10", l.status(101).Version) })
	run(node, "v1.13.10", "version")
	if out, err := raw("-n", node, "containers"); err == nil || !strings.Contains(out, "Unimplemented") {
		t.Errorf("containers: %v", err)
	}
	run(node, "Applied configuration without a reboot", "patch", "machineconfig", "--patch", `{"machine": {"nodeLabels": {"rack": "a"}}}`)
	run(node, "rack: a", "get", "machineconfig", "v1alpha1", "-o", "yaml")
	run(node, "kube-apiserver", "get", "staticpodstatus")
	run("192.0.2.21", "", "reset", "--graceful=false", "--reboot", "--timeout", "20s", "--wait=false")
	l.phase(201, PhaseMaintenance)
	run(node, "", "shutdown", "--timeout", "20s")
	l.phase(101, PhaseOff)
}
