package pve

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// state is everything that outlives the server. Server.mu guards it.
type state struct {
	Machines map[int]*machine   `json:"machines"`
	Volumes  map[string]*volume `json:"volumes"` // by volume.key
	Tasks    []*task            `json:"tasks"`
	Pools    map[string]*pool   `json:"pools"`
	// Generations counts how often a volume ID was allocated, so that a guest can tell a new disk from an old one.
	Generations map[string]int  `json:"generations"`
	Full        map[string]bool `json:"full"`    // storages without free space
	Revoked     map[string]bool `json:"revoked"` // token IDs
	NextPID     int             `json:"nextPID"`
}

func newState() *state {
	return &state{
		Machines: map[int]*machine{}, Volumes: map[string]*volume{}, Pools: map[string]*pool{},
		Generations: map[string]int{}, Full: map[string]bool{}, Revoked: map[string]bool{}, NextPID: 1000,
	}
}

// machine is a virtual machine's configuration and process.
type machine struct {
	VMID   int               `json:"vmid"`
	Node   string            `json:"node"`
	Config map[string]string `json:"config"`
	// Pending are changes that wait for the machine to stop; Delete are removals, true when their volume goes with them.
	Pending map[string]string `json:"pending,omitempty"`
	Delete  map[string]bool   `json:"delete,omitempty"`
	// PID is 0 while the machine is stopped.
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

func (m *machine) running() bool { return m.PID != 0 }

func (m *machine) name() string {
	if name := m.Config["name"]; name != "" {
		return name
	}
	return "VM " + strconv.Itoa(m.VMID)
}

func (m *machine) number(option string, otherwise int) int {
	if n, err := strconv.Atoi(m.Config[option]); err == nil {
		return n
	}
	return otherwise
}

// pool is a resource pool.
type pool struct {
	Comment  string          `json:"comment,omitempty"`
	Machines map[int]bool    `json:"machines"`
	Storages map[string]bool `json:"storages"`
}

func (p *pool) paths() []string {
	var paths []string
	for vmid := range p.Machines {
		paths = append(paths, "/vms/"+strconv.Itoa(vmid))
	}
	for storage := range p.Storages {
		paths = append(paths, "/storage/"+storage)
	}
	return paths
}

func (p *pool) contains(path string) bool {
	for _, member := range p.paths() {
		if member == path {
			return true
		}
	}
	return false
}

// Snapshot returns the whole state as JSON: machines, volumes, tasks, pools, revoked tokens. Tokens, faults and the request
// log are not part of it, the contents of downloaded files stay in Options.Dir.
func (s *Server) Snapshot() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := json.Marshal(s.state)
	if err != nil {
		return nil, fmt.Errorf("snapshot of the simulated Proxmox node: %w", err)
	}
	return raw, nil
}

// Restore replaces the state by a snapshot and powers on the guests that were running. A task that was running then has
// ended with "unexpected status", as after a crash of the node.
func (s *Server) Restore(raw []byte) error {
	restored := newState()
	if err := json.Unmarshal(raw, restored); err != nil {
		return fmt.Errorf("snapshot of the simulated Proxmox node: %w", err)
	}
	s.mu.Lock()
	for _, t := range restored.Tasks {
		if t.Running {
			t.Running, t.Exit, t.Ended = false, "unexpected status", s.options.Now()
		}
	}
	s.state = restored
	var running []Hardware
	for _, m := range restored.Machines {
		// What held the lock is gone, so the machine it was creating is gone too.
		if m.Config["lock"] == "create" {
			delete(restored.Machines, m.VMID)
			continue
		}
		if !m.running() {
			continue
		}
		hw, _, err := s.hardware(m)
		if err != nil {
			m.PID = 0
			continue
		}
		running = append(running, hw)
	}
	s.mu.Unlock()
	for _, hw := range running {
		if err := s.options.Guests.PowerOn(hw); err != nil {
			return fmt.Errorf("virtual machine %d: power on after restore: %w", hw.VMID, err)
		}
	}
	return nil
}
