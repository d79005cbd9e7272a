package machine

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/types/block/blockhelpers"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
	runtimeres "github.com/siderolabs/talos/pkg/machinery/resources/runtime"
)

const (
	phaseReady  = block.VolumePhaseReady
	phaseFailed = block.VolumePhaseFailed

	stageMaintenance = runtimeres.MachineStageMaintenance
	stageInstalling  = runtimeres.MachineStageInstalling
	stageBooting     = runtimeres.MachineStageBooting
	stageRunning     = runtimeres.MachineStageRunning
	stageRebooting   = runtimeres.MachineStageRebooting
	stageShutdown    = runtimeres.MachineStageShuttingDown
	stageUpgrading   = runtimeres.MachineStageUpgrading
	stageResetting   = runtimeres.MachineStageResetting

	metaSize  = 1 << 20
	stateSize = 100 << 20
)

// resetPlan is a validated Reset call.
type resetPlan struct {
	graceful, reboot bool
	system           bool
	labels           []string
	userDisks        []string
}

// pause waits for d. It returns a request that took over meanwhile, and false when the plug was pulled.
func (s *system) pause(d time.Duration) (*request, bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil, s.ctx.Err() == nil
	case r := <-s.takeovers:
		return &r, true
	case <-s.ctx.Done():
		return nil, false
	}
}

// fail ends a boot as a failed sequence does: the machine says why and reboots.
func (s *system) fail(err error) outcome {
	s.guest.printf("%v; rebooting", err)
	s.guest.mu.Lock()
	s.guest.resetNote = "the previous boot failed: " + err.Error()
	s.guest.mu.Unlock()
	if r, ok := s.pause(s.rack.options.Timing.Stop); !ok {
		return unplugged
	} else if r != nil {
		return s.stop(*r)
	}
	return rebooted
}

// installSystem writes Talos to the install disk and the configuration to STATE, then reboots.
func (s *system) installSystem() outcome {
	s.guest.set(PhaseInstalling, "")
	s.setStage(stageInstalling)
	s.sequenceEvent("", "install", machineapi.SequenceEvent_START)
	device, volume, err := s.installDisk()
	if err != nil {
		return s.fail(fmt.Errorf("install failed: %w", err))
	}
	ref := s.config().Machine().Install().Image()
	if ref == "" {
		ref = "ghcr.io/siderolabs/installer:" + s.medium.image.Version
	}
	s.guest.printf("installing Talos to disk %s from %s", device, ref)
	image, err := s.rack.options.Installer(ref)
	if err != nil {
		return s.fail(fmt.Errorf("install failed: failed to pull image %q: %w", ref, err))
	}
	if r, ok := s.pause(s.rack.options.Timing.Install); !ok {
		return unplugged
	} else if r != nil {
		return s.stop(*r)
	}
	s.rack.store.with(func(snap *snapshot) {
		d := snap.disk(volume)
		d.Installed, d.Previous, d.Volumes = &image, nil, map[string]*volumeState{}
	})
	s.guest.printf("install successful")
	if err := s.makeState(); err != nil {
		return s.fail(fmt.Errorf("STATE cannot be made, so the configuration is lost: %w", err))
	}
	s.sequenceEvent("", "install", machineapi.SequenceEvent_STOP)
	return s.stop(request{kind: reboot})
}

// installDisk finds the disk to install to.
func (s *system) installDisk() (device, volume string, err error) {
	install := s.config().Machine().Install()
	expression, err := install.DiskMatchExpression()
	if err != nil {
		return "", "", fmt.Errorf("failed to get disk match expression: %w", err)
	}
	device = install.Disk()
	if expression != nil {
		matched, err := blockhelpers.MatchDisks(s.ctx, s.state, expression)
		if err != nil {
			return "", "", err
		}
		if len(matched) == 0 {
			return "", "", fmt.Errorf("no disks matched the expression: %s", expression)
		}
		device = matched[0].TypedSpec().DevPath
	}
	for _, d := range s.disks() {
		spec := d.spec.TypedSpec()
		if spec.CDROM {
			continue
		}
		if spec.DevPath == device || slices.Contains(spec.Symlinks, device) {
			return spec.DevPath, d.volume, nil
		}
	}
	return "", "", fmt.Errorf("lstat %s: no such file or directory", device)
}

// makeState formats STATE on the system disk and stores the configuration there.
func (s *system) makeState() error {
	cfg := s.config()
	volume := s.systemVolume()
	if volume == "" {
		return errors.New("no system disk")
	}
	v, err := s.platform().format(encryptionOf(cfg, constants.StatePartitionLabel))
	result := volumeResult{id: constants.StatePartitionLabel, disk: s.systemDisk(), size: stateSize, phase: phaseReady, err: err}
	if err != nil {
		result.phase = phaseFailed
		s.publishVolume(result)
		return err
	}
	result.volume = *v
	s.rack.store.with(func(snap *snapshot) { snap.disk(volume).Volumes[constants.StatePartitionLabel] = v })
	s.mu.Lock()
	s.stateOpen = true
	s.mu.Unlock()
	s.publishVolume(result)
	return s.persist(cfg)
}

// bootSystem starts a configured machine's services and runs until a sequence ends it.
func (s *system) bootSystem() outcome {
	s.guest.set(PhaseBooting, "")
	s.setStage(stageBooting)
	s.sequenceEvent("", "boot", machineapi.SequenceEvent_START)
	s.checkMemory()
	s.mu.Lock()
	open := s.stateOpen
	s.mu.Unlock()
	var blocked error
	if !open {
		if blocked = s.makeState(); blocked != nil {
			blocked = fmt.Errorf("volume STATE failed: %w", blocked)
		}
	}
	if blocked == nil {
		blocked = s.openVolumes()
	}
	if blocked != nil {
		s.guest.set(PhaseBooting, blocked.Error())
	} else {
		if r, ok := s.pause(s.rack.options.Timing.BootstrapDelay); !ok {
			return unplugged
		} else if r != nil {
			return s.stop(*r)
		}
		s.mu.Lock()
		s.criUp = true
		s.mu.Unlock()
		s.sequenceEvent("", "boot", machineapi.SequenceEvent_STOP)
		s.setStage(stageRunning)
		s.guest.set(PhaseRunning, s.volumeNote())
		s.tasks.Go(s.settle)
	}
	s.rack.wake()
	s.configuredHook()
	select {
	case r := <-s.takeovers:
		return s.stop(r)
	case r := <-s.requests:
		return s.sequence(r)
	case <-s.ctx.Done():
		return unplugged
	}
}

func (s *system) checkMemory() {
	minimum := 1024
	if s.config().Machine().Type().IsControlPlane() {
		minimum = 2048
	}
	if s.guest.hw.Memory < minimum-100 {
		s.guest.printf("WARNING: memory size is less than recommended; minimum memory size is %d MiB, current total memory size is %d MiB",
			minimum, s.guest.hw.Memory)
	}
}

// openVolumes opens or makes EPHEMERAL and the user's volumes. An error means that the boot cannot go on.
func (s *system) openVolumes() error {
	cfg, disks, p := s.config(), s.disks(), s.platform()
	full := map[string]bool{}
	var results []volumeResult
	var blocked error
	for _, want := range requests(cfg) {
		result := s.openVolume(want, disks, p, full)
		if result.err != nil && want.id == constants.EphemeralPartitionLabel {
			blocked = fmt.Errorf("volume EPHEMERAL failed: %w", result.err)
		}
		if result.disk != nil && want.greedy {
			full[result.disk.volume] = true
		}
		results = append(results, result)
		s.publishVolume(result)
		if blocked != nil {
			break
		}
	}
	s.mu.Lock()
	s.volumes = results
	s.mu.Unlock()
	return blocked
}

func (s *system) openVolume(want volumeRequest, disks []volumeDisk, p platform, full map[string]bool) volumeResult {
	result := volumeResult{id: want.id, phase: phaseReady}
	s.rack.store.with(func(snap *snapshot) {
		for i, d := range disks {
			v, ok := snap.disk(d.volume).Volumes[want.id]
			if !ok {
				continue
			}
			result.disk, result.volume, result.size = &disks[i], *v, d.spec.TypedSpec().Size
			switch {
			case v.Provider == "" && encrypted(want.encryption):
				result.err = errors.New("block dev type mismatch: xfs != luks")
			case v.Provider != "" && !encrypted(want.encryption):
				result.err = errors.New("filesystem type mismatch: luks != xfs")
			default:
				result.err = p.open(v)
			}
			return
		}
	})
	if result.disk == nil {
		disk, err := place(disks, want.provisioning, want.minimum, full)
		if err == nil {
			var v *volumeState
			if v, err = p.format(want.encryption); err == nil {
				result.disk, result.volume = disk, *v
				result.size = want.provisioning.MaxSize().ValueOr(disk.spec.TypedSpec().Size)
				s.rack.store.with(func(snap *snapshot) { snap.disk(disk.volume).Volumes[want.id] = v })
			}
		}
		result.err = err
	}
	if result.err != nil {
		result.phase = phaseFailed
	}
	return result
}

// volumeNote names the user's volumes that failed.
func (s *system) volumeNote() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	note := ""
	for _, v := range s.volumes {
		if v.err != nil {
			note += fmt.Sprintf("volume %s failed: %v; ", v.id, v.err)
		}
	}
	return note
}

// sequence carries out a request on a machine in service.
func (s *system) sequence(r request) outcome {
	switch r.kind {
	case upgrade:
		s.setStage(stageUpgrading)
		s.sequenceEvent(r.actor, "upgrade", machineapi.SequenceEvent_START)
		if taken, ok := s.pause(s.rack.options.Timing.Install); !ok {
			return unplugged
		} else if taken != nil {
			return s.stop(*taken)
		}
		s.writeUpgrade(r.image, r.ref)
	case reset:
		s.setStage(stageResetting)
		s.sequenceEvent(r.actor, "reset", machineapi.SequenceEvent_START)
		s.wipe(r.reset)
	default: // nothing to do before the machine stops
	}
	return s.stop(r)
}

// stop ends the boot: services stop, the API closes, the machine reboots or powers off.
func (s *system) stop(r request) outcome {
	s.guest.set(PhaseStopping, "")
	result, name, stage := rebooted, "reboot", stageRebooting
	if r.kind == shutdown || r.kind == powerButton || (r.kind == reset && !r.reset.reboot) {
		result, name, stage = stopped, "shutdown", stageShutdown
	}
	s.setStage(stage)
	s.sequenceEvent(r.actor, name, machineapi.SequenceEvent_START)
	s.taskEvent(r.actor, "stopAllServices")
	s.mu.Lock()
	s.criUp, s.etcdUp, s.rebooting = false, false, true
	s.mu.Unlock()
	s.rack.wake()
	t := time.NewTimer(s.rack.options.Timing.Stop)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
		return unplugged
	}
	s.sequenceEvent(r.actor, name, machineapi.SequenceEvent_STOP)
	s.front.stop()
	if r.kind == powerButton {
		// The hypervisor knows, since it pressed the button.
		return unplugged
	}
	return result
}

// writeUpgrade makes image the system that boots next.
func (s *system) writeUpgrade(image Image, ref string) {
	volume := s.systemVolume()
	s.rack.store.with(func(snap *snapshot) {
		d := snap.disk(volume)
		d.Previous, d.Installed = d.Installed, &image
	})
	s.guest.printf("upgraded %s to Talos %s from %s", filepath.Base(volume), image.Version, ref)
}

// wipe carries out a reset.
func (s *system) wipe(plan resetPlan) {
	volume := s.systemVolume()
	disks := s.disks()
	s.rack.store.with(func(snap *snapshot) {
		if plan.graceful {
			for _, d := range disks {
				if v, ok := snap.disk(d.volume).Volumes[constants.EphemeralPartitionLabel]; ok && v.EtcdMember != 0 {
					snap.leave(v.EtcdGeneration, v.EtcdMember)
				}
			}
		}
		if plan.system {
			delete(snap.Disks, volume)
		}
		for _, label := range plan.labels {
			for _, d := range disks {
				delete(snap.disk(d.volume).Volumes, label)
			}
		}
		for _, d := range disks {
			if slices.Contains(plan.userDisks, d.spec.TypedSpec().DevPath) {
				delete(snap.Disks, d.volume)
			}
		}
	})
}

func (s *system) configuredHook() {
	if s.rack.options.OnConfigure != nil {
		s.rack.options.OnConfigure(s.node())
	}
}

// node describes the machine to hooks.
func (s *system) node() Node {
	n := Node{VMID: s.guest.hw.VMID, Hostname: s.hostname(), Address: s.primary()}
	if cfg := s.config(); cfg != nil {
		n.ControlPlane = cfg.Machine() != nil && cfg.Machine().Type().IsControlPlane()
		n.Config, _ = cfg.Bytes()
	}
	return n
}
