package machine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	"google.golang.org/grpc/codes"

	"cloudlab/internal/sandbox/pve"
)

// TestSealing covers what happens to a TPM-encrypted machine when its parts are replaced.
func TestSealing(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*pve.Hardware)
		phase  Phase
		note   string
	}{
		{name: "nothing", change: func(*pve.Hardware) {}, phase: PhaseRunning},
		{name: "more memory", change: func(h *pve.Hardware) { h.Memory, h.Cores = 16384, 8 }, phase: PhaseRunning},
		{
			name: "EFI disk", change: func(h *pve.Hardware) { h.EFIVolume = "local-lvm:vm-101-disk-9" },
			phase: PhaseLocked, note: "sealing policy digest does not match",
		},
		{
			name: "EFI disk with Microsoft's keys",
			change: func(h *pve.Hardware) {
				h.EFIVolume, h.PreEnrolledKeys = "local-lvm:vm-101-disk-9", true
			},
			phase: PhaseFirmware, note: "Access Denied by Secure Boot",
		},
		{
			name: "TPM", change: func(h *pve.Hardware) { h.TPMVolume = "local-lvm:vm-101-disk-9" },
			phase: PhaseLocked, note: "srk name does not match",
		},
		{name: "TPM removed", change: func(h *pve.Hardware) { h.TPMVolume = "" }, phase: PhaseLocked, note: "TPM device is not available"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			l.controlPlane(101)
			l.rack.PowerOff(101)
			hw := qemu(101)
			test.change(&hw)
			l.powerOn(hw)
			eventually(t, "phase", func() error {
				st := l.status(101)
				return unless(st.Phase == test.phase && strings.Contains(st.Note, test.note), string(st.Phase)+": "+st.Note)
			})
			if test.phase != PhaseLocked {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := l.secure("192.0.2.11").Version(ctx); err == nil {
				t.Error("a machine without configuration answers")
			}
		})
	}
}

func TestSealingIsRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*pve.Hardware)
		note   string
	}{
		{
			name: "secure boot off", note: "as SecureBoot is disabled (and checkSecurebootOnEnroll is enabled)",
			change: func(h *pve.Hardware) { h.ISO = map[string]string{"ide2": plainISO} },
		},
		{name: "no TPM", change: func(h *pve.Hardware) { h.TPMVolume = "" }, note: "TPM device is not available"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			hw := qemu(101)
			test.change(&hw)
			l.install(hw, l.config(machine.TypeControlPlane, 101, 11))
			// Talos is on the disk, its configuration is lost: it waits for one again.
			eventually(t, "maintenance", func() error {
				st := l.status(101)
				return unless(st.Phase == PhaseMaintenance && strings.Contains(st.Note, test.note), string(st.Phase)+": "+st.Note)
			})
			if _, err := l.apply(l.insecure(l.agentAddress(101)), l.config(machine.TypeControlPlane, 101, 11), applyAuto); err != nil {
				t.Fatal(err)
			}
			eventually(t, "blocked boot", func() error {
				st := l.status(101)
				return unless(st.Phase == PhaseBooting && strings.Contains(st.Note, test.note), string(st.Phase)+": "+st.Note)
			})
			admin := l.secure("192.0.2.11")
			err := admin.Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
			wantCode(t, err, codes.FailedPrecondition, "bootstrap is not available yet")
			status, err := safe.StateGetByID[*block.VolumeStatus](t.Context(), admin.COSI, "STATE")
			if err != nil || status.TypedSpec().Phase != block.VolumePhaseFailed {
				t.Errorf("STATE %v %v", status, err)
			}
		})
	}
}

const userVolume = `
apiVersion: v1alpha1
kind: UserVolumeConfig
name: local
provisioning:
  diskSelector: {match: "!system_disk"}
  minSize: 1GiB
encryption: {provider: luks2, keys: [{slot: 0, tpm: {}, lockToState: true}]}
`

func TestUserVolume(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101, userVolume)
	st := l.status(101)
	if !strings.Contains(st.Note, "volume u-local failed: no disks matched selector for volume") {
		t.Errorf("note %q", st.Note)
	}
	l.rack.PowerOff(101)
	hw := qemu(101)
	hw.Disks = append(hw.Disks, pve.Disk{Device: "scsi1", Volume: "local-lvm:vm-101-disk-3", Bytes: 16 << 30})
	l.powerOn(hw)
	eventually(t, "volume", func() error {
		v, err := safe.StateGetByID[*block.VolumeStatus](t.Context(), admin.COSI, "u-local")
		if err != nil {
			return err
		}
		spec := v.TypedSpec()
		return unless(spec.Phase == block.VolumePhaseReady && spec.ParentLocation == "/dev/sdb" && spec.EncryptionLockedToState, spec.ErrorMessage)
	})
}

func TestInstallFails(t *testing.T) {
	for _, test := range []struct{ name, install, note string }{
		{
			"unknown schematic", "image: factory.example.com/metal-installer-secureboot/beef:v1.13.9", "failed to pull image",
		},
		{"no such disk", "disk: /dev/vdz", "lstat /dev/vdz: no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			l.install(qemu(101), l.config(machine.TypeControlPlane, 101, 11, "machine: {install: {"+test.install+"}}"))
			eventually(t, "maintenance again", func() error {
				st := l.status(101)
				return unless(st.Phase == PhaseMaintenance && strings.Contains(st.Note, test.note), string(st.Phase)+": "+st.Note)
			})
		})
	}
	t.Run("unsigned installer", func(t *testing.T) {
		l := newLab(t)
		l.install(qemu(101), l.config(machine.TypeControlPlane, 101, 11, "machine: {install: {image: "+unsigned+"}}"))
		l.phase(101, PhaseHalted)
	})
}
