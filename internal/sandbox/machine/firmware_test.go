package machine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/config/machine"

	"cloudlab/internal/sandbox/pve"
)

func TestFirmware(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*pve.Hardware)
		phase  Phase
		note   string
		secure bool
	}{
		{name: "setup mode enrols keys", change: func(*pve.Hardware) {}, phase: PhaseMaintenance, secure: true},
		{
			name: "no EFI disk keeps keys until power off", change: func(h *pve.Hardware) { h.EFIVolume = "" },
			phase: PhaseMaintenance, secure: true,
		},
		{
			name: "pre-enrolled keys", change: func(h *pve.Hardware) { h.PreEnrolledKeys = true },
			phase: PhaseFirmware, note: "Access Denied by Secure Boot: the EFI disk has pre-enrolled Microsoft keys",
		},
		{
			name: "SeaBIOS", change: func(h *pve.Hardware) { h.UEFI = false; h.EFIVolume = "" },
			phase: PhaseFirmware, note: "starts under UEFI (OVMF) only",
		},
		{
			name: "SeaBIOS with a plain ISO", change: func(h *pve.Hardware) { h.UEFI, h.ISO = false, map[string]string{"ide2": plainISO} },
			phase: PhaseMaintenance,
		},
		{
			name: "plain ISO", change: func(h *pve.Hardware) { h.ISO = map[string]string{"ide2": plainISO} }, phase: PhaseMaintenance,
		},
		{
			name: "old CPU", change: func(h *pve.Hardware) { h.CPU = "cputype=kvm64" },
			phase: PhaseHalted, note: "the CPU type kvm64 lacks x86-64-v2",
		},
		{name: "default CPU", change: func(h *pve.Hardware) { h.CPU = "" }, phase: PhaseHalted, note: "x86-64-v2"},
		{
			name: "no ISO", change: func(h *pve.Hardware) { h.ISO = nil },
			phase: PhaseFirmware, note: "scsi0: the disk holds no operating system",
		},
		{
			name: "unknown ISO", change: func(h *pve.Hardware) { h.ISO = map[string]string{"ide2": "/iso/debian.iso"} },
			phase: PhaseFirmware, note: "not a Talos ISO",
		},
		{name: "no boot order", change: func(h *pve.Hardware) { h.BootOrder = nil }, phase: PhaseFirmware, note: "no bootable device"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			hw := qemu(101)
			test.change(&hw)
			l.powerOn(hw)
			var st Status
			eventually(t, "phase", func() error {
				st = l.status(101)
				return unless(st.Phase == test.phase && strings.Contains(st.Note, test.note), string(st.Phase)+": "+st.Note)
			})
			if st.SecureBoot != test.secure {
				t.Errorf("secure boot %t", st.SecureBoot)
			}
			if _, err := l.rack.Interfaces(101); (err == nil) != (test.phase == PhaseMaintenance) {
				t.Errorf("guest agent: %v", err)
			}
		})
	}
}

func TestEnrolledKeysRefuseUnsigned(t *testing.T) {
	l := newLab(t)
	l.powerOn(qemu(101))
	l.phase(101, PhaseMaintenance)
	l.rack.PowerOff(101)
	hw := qemu(101)
	hw.ISO["ide2"] = plainISO
	l.powerOn(hw)
	eventually(t, "refusal", func() error {
		st := l.status(101)
		return unless(strings.Contains(st.Note, "the image is not signed"), st.Note)
	})
}

func TestGuestAgentNeedsExtensionAndOption(t *testing.T) {
	l := newLab(t)
	hw := qemu(101)
	hw.ISO["ide2"] = agentless
	l.powerOn(hw)
	off := qemu(102)
	off.Agent = false
	l.powerOn(off)
	for _, vmid := range []int{101, 102, 999} {
		if vmid != 999 {
			l.phase(vmid, PhaseMaintenance)
		}
		if _, err := l.rack.Interfaces(vmid); !errors.Is(err, pve.ErrAgentNotRunning) {
			t.Errorf("VM %d: %v", vmid, err)
		}
	}
}

func TestISOFirstHaltsOnInstalledDisk(t *testing.T) {
	l := newLab(t)
	hw := qemu(101)
	hw.BootOrder = []string{"ide2", "scsi0"}
	l.install(hw, l.config(machine.TypeControlPlane, 101, 11))
	st := l.phase(101, PhaseHalted)
	if !strings.Contains(st.Note, "talos.halt_if_installed") {
		t.Errorf("note %q", st.Note)
	}
	l.rack.PowerOff(101)
	l.powerOn(qemu(101))
	l.phase(101, PhaseRunning)
}

func TestFirmwareIgnoresThePowerButton(t *testing.T) {
	l := newLab(t)
	hw := qemu(101)
	hw.ISO = nil
	l.powerOn(hw)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.rack.Shutdown(ctx, 101); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
}

func TestLeasesAreStable(t *testing.T) {
	l := newLab(t)
	first, err := l.rack.lease("BC:24:11:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	again, _ := l.rack.lease("bc:24:11:00:00:01")
	other, _ := newLab(t).rack.lease("bc:24:11:00:00:01")
	if first != again || first != other || first.Bits() != 24 {
		t.Errorf("leases %s, %s, %s", first, again, other)
	}
	seen := map[string]bool{}
	for i := range 100 {
		p, err := l.rack.lease(mac(i))
		if err != nil {
			t.Fatal(err)
		}
		if seen[p.String()] {
			t.Fatalf("%s twice", p)
		}
		seen[p.String()] = true
	}
	if _, err := l.rack.lease("bc:24:11:00:01:01"); err == nil {
		t.Error("the pool never ends")
	}
}
