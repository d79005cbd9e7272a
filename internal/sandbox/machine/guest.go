package machine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cloudlab/internal/sandbox/pve"
)

// Phase is where a machine is between power on and a running cluster node.
type Phase string

// The phases of a machine.
const (
	PhaseOff Phase = "off"
	// PhaseFirmware: the firmware looks for a bootable medium, or found none.
	PhaseFirmware Phase = "firmware"
	// PhaseHalted: Talos started and stopped on purpose.
	PhaseHalted Phase = "halted"
	// PhaseLocked: Talos started and cannot read its configuration; its API is closed.
	PhaseLocked Phase = "locked"
	// PhaseMaintenance: Talos waits for a configuration.
	PhaseMaintenance Phase = "maintenance"
	PhaseInstalling  Phase = "installing"
	// PhaseBooting: configured, services are starting or wait for a volume.
	PhaseBooting  Phase = "booting"
	PhaseRunning  Phase = "running"
	PhaseStopping Phase = "stopping"
)

// outcome is how one boot ended.
type outcome int

const (
	unplugged outcome = iota
	rebooted
	stopped
)

// guest is one powered machine, from power on to power off.
type guest struct {
	rack *Rack
	hw   pve.Hardware
	log  *console
	plug context.Context //nolint:containedctx // a machine runs until its plug is pulled
	pull context.CancelFunc
	off  chan struct{}

	mu    sync.Mutex
	phase Phase
	note  string
	sys   *system
	// volatileKeys are enrolled keys of a UEFI machine without an EFI disk: they last until power off.
	volatileKeys bool
	// resetNote explains the boot to come, e.g. that an installation failed.
	resetNote string
}

func newGuest(r *Rack, hw pve.Hardware) *guest {
	hw.BootOrder = slices.Clone(hw.BootOrder)
	hw.Disks = slices.Clone(hw.Disks)
	hw.NICs = slices.Clone(hw.NICs)
	hw.ISO = maps.Clone(hw.ISO)
	g := &guest{rack: r, hw: hw, log: &console{}, off: make(chan struct{}), phase: PhaseFirmware}
	g.plug, g.pull = context.WithCancel(context.Background())
	r.store.with(func(s *snapshot) {
		for _, d := range hw.Disks {
			s.own(hw.VMID, d.Volume)
		}
		s.own(hw.VMID, hw.EFIVolume)
		s.own(hw.VMID, hw.TPMVolume)
		s.tpm(hw.TPMVolume)
	})
	return g
}

func (g *guest) powered() bool {
	select {
	case <-g.off:
		return false
	default:
		return true
	}
}

// unplug stops the machine at once and waits for its goroutines.
func (g *guest) unplug() {
	g.pull()
	<-g.off
}

func (g *guest) run() {
	result := rebooted
	for result == rebooted {
		result = g.boot()
	}
	g.pull()
	g.set(PhaseOff, "")
	close(g.off)
	g.rack.wake()
	if result == stopped && g.rack.options.OnStopped != nil {
		g.rack.options.OnStopped(g.hw.VMID)
	}
}

// printf writes to the machine's console.
func (g *guest) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	g.log.add(g.rack.options.Now().UTC().Format("15:04:05.000 ") + line)
	g.rack.options.Log.Info(line, "vmid", g.hw.VMID, "name", g.hw.Name)
}

func (g *guest) set(phase Phase, note string) {
	g.mu.Lock()
	changed := g.phase != phase || g.note != note
	g.phase, g.note = phase, note
	g.mu.Unlock()
	if changed && note != "" {
		g.printf("%s: %s", phase, note)
	}
}

func (g *guest) system() *system {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sys
}

func (g *guest) setSystem(s *system) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sys = s
}

// sleep returns false when the plug was pulled meanwhile.
func (g *guest) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return g.plug.Err() == nil
	case <-g.plug.Done():
		return false
	}
}

// keys reads the firmware's variable store.
func (g *guest) keys() firmwareKeys {
	if g.hw.EFIVolume == "" {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.volatileKeys {
			return factoryKeys
		}
		return noKeys
	}
	if g.hw.PreEnrolledKeys {
		return microsoftKeys
	}
	keys := noKeys
	g.rack.store.with(func(s *snapshot) {
		if s.firmware(g.hw.EFIVolume).Enrolled {
			keys = factoryKeys
		}
	})
	return keys
}

func (g *guest) enroll() {
	if g.hw.EFIVolume == "" {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.volatileKeys = true
		return
	}
	g.rack.store.with(func(s *snapshot) { s.firmware(g.hw.EFIVolume).Enrolled = true })
}

// boot is one pass from the firmware to a reboot or power off.
func (g *guest) boot() outcome {
	g.mu.Lock()
	note := g.resetNote
	g.resetNote = ""
	g.mu.Unlock()
	g.set(PhaseFirmware, note)
	if !g.sleep(g.rack.options.Timing.Boot) {
		return unplugged
	}
	m, reason := boot(g.hw, g.keys(), g.installed, g.rack.options.ReadISO)
	if m == nil {
		g.set(PhaseFirmware, reason)
		<-g.plug.Done()
		return unplugged
	}
	if m.iso && m.image.SecureBoot && m.setupMode {
		g.printf("systemd-boot: enrolling secure boot keys and rebooting")
		g.enroll()
		return rebooted
	}
	if model := cpuModel(g.hw.CPU); !supportsV2(model) {
		g.set(PhaseHalted, fmt.Sprintf("the CPU type %s lacks x86-64-v2 microarchitecture support, which Talos requires; use host or x86-64-v2-AES", model))
		<-g.plug.Done()
		return unplugged
	}
	sys, err := newSystem(g, *m)
	if err != nil {
		g.set(PhaseHalted, err.Error())
		<-g.plug.Done()
		return unplugged
	}
	g.setSystem(sys)
	g.printf("booting Talos %s from %s, secure boot: %t", m.image.Version, m.device, m.secureBoot)
	result := sys.run()
	g.setSystem(nil)
	sys.close()
	return result
}

func (g *guest) installed(volume string) *Image {
	var image *Image
	g.rack.store.with(func(s *snapshot) {
		if d, ok := s.Disks[volume]; ok && d.Installed != nil {
			found := *d.Installed
			image = &found
		}
	})
	return image
}

// pressPowerButton asks the operating system to stop, if one listens.
func (g *guest) pressPowerButton() {
	if sys := g.system(); sys != nil {
		sys.takeover(request{kind: powerButton})
	}
}

func (g *guest) status() Status {
	g.mu.Lock()
	st := Status{VMID: g.hw.VMID, Name: g.hw.Name, Phase: g.phase, Note: g.note}
	sys := g.sys
	g.mu.Unlock()
	if sys != nil {
		sys.describe(&st)
	}
	return st
}
