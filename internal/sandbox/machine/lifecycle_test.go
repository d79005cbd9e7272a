package machine

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"google.golang.org/grpc/codes"
)

func TestFromPowerOnToKubeconfig(t *testing.T) {
	l := newLab(t)
	hw := qemu(101)
	l.powerOn(hw)
	st := l.phase(101, PhaseMaintenance)
	if !st.SecureBoot {
		t.Error("the ISO has not enrolled its keys")
	}
	first := l.agentAddress(101)
	c := l.insecure(first)
	if _, err := c.Disks(t.Context()); err != nil {
		t.Fatalf("insecure probe in maintenance mode: %v", err)
	}
	answer, err := l.apply(c, l.config(machine.TypeControlPlane, 101, 11), applyAuto)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Mode != applyNoReboot {
		t.Errorf("mode %s", answer.Mode)
	}
	l.phase(101, PhaseRunning)
	if got := l.agentAddress(101); got != "192.0.2.11" {
		t.Errorf("address %s after the installation", got)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := l.insecure("192.0.2.11").Disks(ctx); err == nil {
		t.Error("a configured machine answers a client without certificate")
	}
	admin := l.secure("192.0.2.11")
	if _, err := admin.Disks(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.bootstrap(admin)
	err = admin.Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
	wantCode(t, err, codes.AlreadyExists, "etcd data directory is not empty")

	stream, err := admin.KubeconfigRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(stream)
	if err != nil {
		t.Fatal(err)
	}
	header, err := tar.NewReader(unzipped).Next()
	if err != nil || header.Name != "kubeconfig" {
		t.Fatalf("kubeconfig archive: %v %v", header, err)
	}
	text, err := admin.Kubeconfig(t.Context())
	if err != nil || !strings.Contains(string(text), "server: https://192.0.2.11:6443") {
		t.Errorf("kubeconfig %v\n%s", err, text)
	}
	id := bootID(t, admin)
	if err := admin.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reboot", func() error { return unless(bootID(t, admin) != id, "same boot ID") })
	eventually(t, "etcd after the reboot", func() error { return unless(l.status(101).Bootstrapped, "etcd is down") })
}

// bootID is empty while the machine does not answer.
func bootID(t *testing.T, c *client.Client) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stream, err := c.Read(ctx, bootIDPath)
	if err != nil {
		return ""
	}
	id, err := io.ReadAll(stream)
	if err != nil {
		return ""
	}
	return string(id)
}

func TestShutdown(t *testing.T) {
	off := make(chan int, 1)
	l := newLab(t, func(o *Options) { o.OnStopped = func(vmid int) { off <- vmid } })
	admin := l.controlPlane(101)
	if err := admin.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case vmid := <-off:
		if vmid != 101 {
			t.Errorf("VM %d stopped", vmid)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the hypervisor was not told")
	}
	l.phase(101, PhaseOff)
	l.powerOn(qemu(101))
	l.phase(101, PhaseRunning)
	if err := l.rack.PowerOn(qemu(101)); err == nil {
		t.Error("a running machine was powered on")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := l.rack.Shutdown(ctx, 101); err != nil {
		t.Fatal(err)
	}
	select {
	case <-off:
		t.Error("the hypervisor was told of its own shutdown")
	default:
	}
}

func TestUpgrade(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	_, err := admin.UpgradeWithOptions(t.Context(), client.WithUpgradeImage("example.com/installer:v9"))
	wantCode(t, err, codes.Unknown, "error validating installer image")
	if _, err := admin.UpgradeWithOptions(t.Context(), client.WithUpgradeImage(newer)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new version", func() error { return unless(l.status(101).Version == "v1.13.10", "old version") })
	eventually(t, "etcd", func() error { return unless(l.status(101).Bootstrapped, "etcd is down") })
	version, err := admin.Version(t.Context())
	if err != nil || version.Messages[0].Version.Tag != "v1.13.10" {
		t.Errorf("version %v %v", version, err)
	}
	if err := admin.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "old version", func() error { return unless(l.status(101).Version == "v1.13.9", "new version") })
	l.phase(101, PhaseRunning)

	stream, err := admin.LifecycleClient.Upgrade(t.Context(), &machineapi.LifecycleServiceUpgradeRequest{
		Source: &machineapi.InstallArtifactsSource{ImageName: unsigned},
	})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := admin.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The firmware refuses the unsigned system and falls through to the ISO, which halts.
	st := l.phase(101, PhaseHalted)
	if !strings.Contains(st.Note, "Talos is already installed to disk") {
		t.Errorf("note %q", st.Note)
	}
}

func TestReset(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	if err := admin.Reset(t.Context(), true, true); err != nil {
		t.Fatal(err)
	}
	l.phase(101, PhaseMaintenance)
	l.rack.store.with(func(s *snapshot) {
		if len(s.Etcd) != 0 {
			t.Errorf("etcd members stayed: %v", s.Etcd)
		}
	})
	if _, err := l.apply(l.insecure(l.agentAddress(101)), l.config(machine.TypeControlPlane, 101, 11), applyAuto); err != nil {
		t.Fatal(err)
	}
	l.phase(101, PhaseRunning)
}
