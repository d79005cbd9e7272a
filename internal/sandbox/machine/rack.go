package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cloudlab/internal/sandbox/pve"
)

var _ pve.Guests = (*Rack)(nil)

// Rack holds simulated machines and powers them. Its methods are safe for concurrent use.
type Rack struct {
	options Options
	store   *store
	// kick asks the coordinator for a round.
	kick  chan struct{}
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	guests     map[int]*guest
	faults     []*Fault
	faultCount int
}

// New makes an empty rack. Close ends it.
func New(options Options) (*Rack, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Rack{options: options, store: newStore(), kick: make(chan struct{}, 1), stop: cancel, guests: map[int]*guest{}}
	r.tasks.Go(func() { r.coordinate(ctx) })
	return r, nil
}

// Close pulls the plug of every machine and waits until all has ended.
func (r *Rack) Close() error {
	r.mu.Lock()
	r.closed = true
	ids := make([]int, 0, len(r.guests))
	for id := range r.guests {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	for _, id := range ids {
		r.PowerOff(id)
	}
	r.stop()
	r.tasks.Wait()
	return nil
}

// PowerOn implements pve.Guests.
func (r *Rack) PowerOn(hw pve.Hardware) error {
	if hw.VMID <= 0 {
		return errors.New("simulated machine: a VM ID is required")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("VM %d: the simulated machines are shut down", hw.VMID)
	}
	old := r.guests[hw.VMID]
	if old != nil && old.powered() {
		return fmt.Errorf("VM %d already running", hw.VMID)
	}
	g := newGuest(r, hw)
	if old != nil {
		g.log = old.log
	}
	r.guests[hw.VMID] = g
	r.tasks.Go(g.run)
	return nil
}

func (r *Rack) guest(vmid int) *guest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guests[vmid]
}

// PowerOff implements pve.Guests.
func (r *Rack) PowerOff(vmid int) {
	if g := r.guest(vmid); g != nil {
		g.unplug()
	}
}

// Shutdown implements pve.Guests. A machine that runs no operating system ignores it until ctx ends.
func (r *Rack) Shutdown(ctx context.Context, vmid int) error {
	g := r.guest(vmid)
	if g == nil || !g.powered() {
		return nil
	}
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		// The button works once an operating system listens; it may come up while we wait.
		g.pressPowerButton()
		select {
		case <-g.off:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("VM %d did not shut down: %w", vmid, ctx.Err())
		case <-t.C:
		}
	}
}

// Interfaces implements pve.Guests.
func (r *Rack) Interfaces(vmid int) ([]pve.Interface, error) {
	g := r.guest(vmid)
	if g == nil {
		return nil, pve.ErrAgentNotRunning
	}
	sys := g.system()
	if sys == nil || !g.hw.Agent || !sys.medium.image.has(GuestAgent) {
		return nil, pve.ErrAgentNotRunning
	}
	return sys.interfaces(), nil
}

// Destroy implements pve.Guests. A running machine is unplugged first.
func (r *Rack) Destroy(vmid int) {
	r.PowerOff(vmid)
	r.mu.Lock()
	delete(r.guests, vmid)
	r.mu.Unlock()
	r.store.with(func(s *snapshot) { s.forget(vmid) })
	r.wake()
}

// Snapshot serialises (JSON) what machines keep over a power cycle: disks, firmware keys, TPM identities, leases, etcd's
// member lists. It holds the machines' secrets, since their disks do.
func (r *Rack) Snapshot() ([]byte, error) { return r.store.marshal() }

// Restore replaces that state. It fails while a machine is powered on.
func (r *Rack) Restore(data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, g := range r.guests {
		if g.powered() {
			return fmt.Errorf("simulated machines: restore while VM %d is running, power it off first", id)
		}
	}
	return r.store.unmarshal(data)
}

// Logs returns the newest lines of a machine's console, oldest first.
func (r *Rack) Logs(vmid int) []string {
	g := r.guest(vmid)
	if g == nil {
		return nil
	}
	return g.log.lines()
}

// Status describes a machine for people.
type Status struct {
	VMID  int    `json:"vmid"`
	Name  string `json:"name"`
	Phase Phase  `json:"phase"`
	// Note says why the machine does not go on, if so.
	Note         string   `json:"note,omitempty"`
	Hostname     string   `json:"hostname,omitempty"`
	Addresses    []string `json:"addresses,omitempty"`
	Version      string   `json:"version,omitempty"`
	Schematic    string   `json:"schematic,omitempty"`
	Role         string   `json:"role,omitempty"`
	Cluster      string   `json:"cluster,omitempty"`
	SecureBoot   bool     `json:"secureBoot"`
	Bootstrapped bool     `json:"bootstrapped"`
}

// Status lists the machines by VM ID, powered off ones included.
func (r *Rack) Status() []Status {
	r.mu.Lock()
	guests := make([]*guest, 0, len(r.guests))
	for _, g := range r.guests {
		guests = append(guests, g)
	}
	r.mu.Unlock()
	slices.SortFunc(guests, func(a, b *guest) int { return a.hw.VMID - b.hw.VMID })
	list := make([]Status, 0, len(guests))
	for _, g := range guests {
		list = append(list, g.status())
	}
	return list
}

// console keeps the newest lines of a machine's log.
type console struct {
	mu   sync.Mutex
	ring []string
}

const consoleLines = 500

func (c *console) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring = append(c.ring, line)
	if len(c.ring) > consoleLines {
		c.ring = slices.Delete(c.ring, 0, len(c.ring)-consoleLines)
	}
}

func (c *console) lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ring)
}
