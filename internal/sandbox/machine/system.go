package machine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cosi-project/runtime/pkg/state"
	"github.com/google/uuid"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	configres "github.com/siderolabs/talos/pkg/machinery/resources/config"
)

// requestKind is what an API call or the power button wants from the running system.
type requestKind int

const (
	configured requestKind = iota
	reboot
	shutdown
	powerButton
	upgrade
	reset
)

// request starts a sequence.
type request struct {
	kind  requestKind
	actor string
	// image and ref are the system to install in an upgrade.
	image Image
	ref   string
	reset resetPlan
}

// system is one boot of Talos on a machine.
type system struct {
	guest   *guest
	rack    *Rack
	medium  medium
	bootID  string
	started time.Time
	ctx     context.Context //nolint:containedctx // lives as long as the boot
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	state   state.State
	events  *eventLog
	front   *front
	back    *back
	// requests and takeovers each hold one request; takeovers interrupt sequences.
	requests  chan request
	takeovers chan request
	// apply serialises ApplyConfiguration, install serialises LifecycleService calls.
	apply   sync.Mutex
	install sync.Mutex

	mu          sync.Mutex
	active      config.Provider
	maintenance bool
	rebooting   bool
	rollback    *time.Timer
	addressing  addressing
	held        []netip.Addr
	stateOpen   bool
	criUp       bool
	etcdUp      bool
	volumes     []volumeResult
	nodeID      string
	services    map[string]bool // stopped by the API
	warned      map[string]bool
	shown       map[string]string // what coordination has published
	machine     *machineStatus
}

func newSystem(g *guest, m medium) (*system, error) {
	s := &system{
		guest: g, rack: g.rack, medium: m, bootID: uuid.NewString(), started: g.rack.options.Now(), events: newEventLog(),
		requests: make(chan request, 1), takeovers: make(chan request, 1), services: map[string]bool{}, warned: map[string]bool{}, shown: map[string]string{},
		machine: &machineStatus{},
	}
	s.ctx, s.cancel = context.WithCancel(g.plug)
	var err error
	if s.state, err = newResources(s.ctx); err != nil {
		return nil, fmt.Errorf("resource state: %w", err)
	}
	s.back = newBack(s)
	s.front = newFront(s)
	s.nodeID = digest("node " + g.hw.UUID + g.hw.Name)[:43]
	return s, nil
}

// close ends everything that belongs to this boot.
func (s *system) close() {
	s.cancel()
	s.mu.Lock()
	if s.rollback != nil {
		s.rollback.Stop()
	}
	s.mu.Unlock()
	s.front.close()
	s.back.close()
	s.tasks.Wait()
}

// run is the boot from kernel start until reboot or power off.
func (s *system) run() outcome {
	s.publishHardware()
	s.readdress()
	if s.medium.iso && s.systemVolume() != "" {
		s.guest.set(PhaseHalted, "Talos is already installed to disk but booted from another media and "+
			constants.KernelParamHaltIfInstalled+" kernel parameter is set. Please reboot from the disk.")
		return s.idle()
	}
	cfg, err := s.loadState()
	if err != nil {
		s.publishVolume(volumeResult{id: constants.StatePartitionLabel, phase: phaseFailed, err: err, disk: s.systemDisk()})
		s.guest.set(PhaseLocked, "STATE cannot be unlocked, so the machine has no configuration and keeps its API closed: "+err.Error())
		return s.idle()
	}
	if cfg == nil || !cfg.CompleteForBoot() {
		if result, leave := s.waitForConfig(cfg); leave {
			return result
		}
	} else {
		s.setActive(cfg)
	}
	if s.systemVolume() == "" {
		return s.installSystem()
	}
	return s.bootSystem()
}

// idle waits for the power button or the plug.
func (s *system) idle() outcome {
	select {
	case <-s.takeovers:
		return s.stop(request{kind: powerButton})
	case <-s.ctx.Done():
		return unplugged
	}
}

// waitForConfig is maintenance mode. leave is true when the machine stops in it.
func (s *system) waitForConfig(partial config.Provider) (result outcome, leave bool) {
	s.mu.Lock()
	s.maintenance = true
	s.mu.Unlock()
	if partial != nil {
		s.setActive(partial)
	}
	s.setStage(stageMaintenance)
	s.guest.mu.Lock()
	note := s.guest.note
	s.guest.mu.Unlock()
	if err := s.front.start(true, nil); err != nil {
		note = err.Error()
	}
	s.guest.set(PhaseMaintenance, note)
	for {
		select {
		case <-s.takeovers:
			return s.stop(request{kind: powerButton}), true
		case <-s.ctx.Done():
			return unplugged, true
		case r := <-s.requests:
			if r.kind != configured {
				return s.sequence(r), true
			}
			s.front.stop()
			s.mu.Lock()
			s.maintenance = false
			s.mu.Unlock()
			s.setActive(s.config())
			return 0, false
		}
	}
}

// loadState reads the configuration from STATE; nil when there is none.
func (s *system) loadState() (config.Provider, error) {
	volume := s.systemVolume()
	if volume == "" {
		return nil, nil
	}
	p := s.platform()
	var (
		data   []byte
		found  *volumeState
		failed error
	)
	s.rack.store.with(func(snap *snapshot) {
		v, ok := snap.disk(volume).Volumes[constants.StatePartitionLabel]
		if !ok {
			return
		}
		if failed = p.open(v); failed != nil {
			return
		}
		clone := *v
		found, data = &clone, slices.Clone(v.Config)
	})
	if failed != nil || found == nil {
		return nil, failed
	}
	s.mu.Lock()
	s.stateOpen = true
	if found.NodeID != "" {
		s.nodeID = found.NodeID
	}
	s.mu.Unlock()
	s.publishVolume(volumeResult{
		id: constants.StatePartitionLabel, volume: *found, phase: phaseReady, disk: s.systemDisk(), size: stateSize,
	})
	if len(data) == 0 {
		return nil, nil
	}
	cfg, err := configloader.NewFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("configuration on STATE: %w", err)
	}
	return cfg, nil
}

func (s *system) config() config.Provider {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// completeConfig is nil in maintenance mode.
func (s *system) completeConfig() config.Provider {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.maintenance || s.active == nil || !s.active.CompleteForBoot() {
		return nil
	}
	return s.active
}

// setActive puts a configuration in force: network, identity and, when complete, the authenticated API.
func (s *system) setActive(cfg config.Provider) {
	s.mu.Lock()
	s.active = cfg
	maintenance := s.maintenance
	s.mu.Unlock()
	s.publishConfig(configres.ActiveID, cfg)
	s.readdress()
	if !maintenance && cfg.CompleteForBoot() {
		if err := s.openAPI(nil); err != nil {
			s.guest.printf("apid: %v", err)
		}
	}
	s.rack.wake()
}

// persist stores a configuration on STATE; before the installation it is kept for later.
func (s *system) persist(cfg config.Provider) error {
	s.publishConfig(configres.PersistentID, cfg)
	data, err := cfg.Bytes()
	if err != nil {
		return fmt.Errorf("error getting config bytes: %w", err)
	}
	s.mu.Lock()
	open, id := s.stateOpen, s.nodeID
	s.mu.Unlock()
	volume := s.systemVolume()
	if !open || volume == "" {
		return nil
	}
	s.rack.store.with(func(snap *snapshot) {
		if v, ok := snap.disk(volume).Volumes[constants.StatePartitionLabel]; ok {
			v.Config, v.NodeID = data, id
		}
	})
	return nil
}

// platform describes the machine to volume encryption.
func (s *system) platform() platform {
	p := platform{secureBoot: s.medium.secureBoot, setupMode: s.medium.setupMode, uuid: s.guest.hw.UUID}
	volume := s.systemVolume()
	s.mu.Lock()
	open := s.stateOpen
	s.mu.Unlock()
	s.rack.store.with(func(snap *snapshot) {
		p.tpm = snap.tpm(s.guest.hw.TPMVolume)
		if v, ok := snap.disk(volume).Volumes[constants.StatePartitionLabel]; ok && open {
			p.state = v.UUID
		}
	})
	return p
}

// systemVolume is the volume of the disk with an installed Talos; empty when there is none.
func (s *system) systemVolume() string {
	if s.medium.volume != "" {
		return s.medium.volume
	}
	for _, d := range s.guest.hw.Disks {
		if s.guest.installed(d.Volume) != nil {
			return d.Volume
		}
	}
	return ""
}

// submit starts a sequence unless another one is about to run.
func (s *system) submit(r request) {
	select {
	case s.requests <- r:
	default:
		s.guest.printf("sequence not started: locked")
	}
}

// takeover starts a sequence in place of a running one.
func (s *system) takeover(r request) {
	select {
	case s.takeovers <- r:
	default:
	}
}

// warnOnce logs a lasting problem a single time per boot.
func (s *system) warnOnce(text string) {
	s.mu.Lock()
	known := s.warned[text]
	s.warned[text] = true
	s.mu.Unlock()
	if !known {
		s.guest.printf("%s", text)
	}
}

func (s *system) describe(st *Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.addressing.all() {
		st.Addresses = append(st.Addresses, p.String())
	}
	for _, v := range s.held {
		st.Addresses = append(st.Addresses, netip.PrefixFrom(v, v.BitLen()).String())
	}
	st.Version, st.Schematic, st.SecureBoot = s.medium.image.Version, s.medium.image.Schematic, s.medium.secureBoot
	st.Bootstrapped = s.etcdUp
	if s.active != nil && s.active.Machine() != nil {
		st.Role = s.active.Machine().Type().String()
	}
	if s.active != nil && s.active.Cluster() != nil {
		st.Cluster = s.active.Cluster().Name()
	}
	if s.active != nil {
		if h := s.active.NetworkHostnameConfig(); h != nil {
			st.Hostname = h.Hostname()
		}
	}
}
