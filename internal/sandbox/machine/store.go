package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// store is what outlives a power cycle: disks, firmware variables, TPMs, DHCP leases and etcd's member lists.
type store struct {
	mu sync.Mutex
	snapshot
}

// snapshot is the serialised form of a store. Volumes are keyed by the hypervisor's volume names.
type snapshot struct {
	Disks    map[string]*diskState     `json:"disks"`
	Firmware map[string]*firmwareState `json:"firmware"`
	// TPMs maps a TPM volume to the identity of its storage root key.
	TPMs map[string]string `json:"tpms"`
	// Leases maps a MAC address (lower case) to its address.
	Leases map[string]string `json:"leases"`
	// Etcd maps a cluster's generation to its members.
	Etcd map[string]*etcdCluster `json:"etcd"`
	// Owned maps a VM to the volumes it has been seen with.
	Owned map[int][]string `json:"owned"`
}

type firmwareState struct {
	// Enrolled is true once the factory's keys are in the variable store, which ends Setup Mode.
	Enrolled bool `json:"enrolled"`
}

// diskState is a hard disk's content.
type diskState struct {
	// Installed is the system that the boot loader starts; Previous the one it can fall back to.
	Installed *Image `json:"installed,omitempty"`
	Previous  *Image `json:"previous,omitempty"`
	// UUID is the disk's identity as Talos shows it.
	UUID string `json:"uuid"`
	// Volumes are the partitions with data by Talos' volume name: STATE, EPHEMERAL, u-<name>.
	Volumes map[string]*volumeState `json:"volumes,omitempty"`
}

// volumeState is a formatted partition.
type volumeState struct {
	UUID string `json:"uuid"`
	// Provider is luks2 for an encrypted volume.
	Provider string `json:"provider,omitempty"`
	// Keys unlock an encrypted volume; one suffices.
	Keys []volumeKey `json:"keys,omitempty"`
	// Config is the machine configuration on STATE.
	Config []byte `json:"config,omitempty"`
	// NodeID is the machine's discovery identity on STATE.
	NodeID string `json:"nodeID,omitempty"`
	// EtcdGeneration and EtcdMember are set on EPHEMERAL once etcd has data.
	EtcdGeneration string `json:"etcdGeneration,omitempty"`
	EtcdMember     uint64 `json:"etcdMember,omitempty"`
}

// volumeKey is a LUKS key slot.
type volumeKey struct {
	Slot int    `json:"slot"`
	Kind string `json:"kind"`
	// TPM and PCR7 are what a TPM key is sealed to; PCR7 is empty when the key does not depend on it.
	TPM  string `json:"tpm,omitempty"`
	PCR7 string `json:"pcr7,omitempty"`
	// Secret identifies a static key or the machine's UUID.
	Secret string `json:"secret,omitempty"`
	// State is the UUID of the STATE volume that a key is locked to.
	State string `json:"state,omitempty"`
}

func newStore() *store {
	s := &store{}
	s.fill()
	return s
}

func (s *snapshot) fill() {
	if s.Disks == nil {
		s.Disks = map[string]*diskState{}
	}
	if s.Firmware == nil {
		s.Firmware = map[string]*firmwareState{}
	}
	if s.TPMs == nil {
		s.TPMs = map[string]string{}
	}
	if s.Leases == nil {
		s.Leases = map[string]string{}
	}
	if s.Etcd == nil {
		s.Etcd = map[string]*etcdCluster{}
	}
	if s.Owned == nil {
		s.Owned = map[int][]string{}
	}
}

// with runs f with the store locked. f must not keep references.
func (s *store) with(f func(*snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.snapshot)
}

func (s *store) marshal() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.MarshalIndent(&s.snapshot, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("simulated machines: encode snapshot: %w", err)
	}
	return b, nil
}

func (s *store) unmarshal(data []byte) error {
	var loaded snapshot
	if err := json.Unmarshal(data, &loaded); err != nil {
		return fmt.Errorf("simulated machines: decode snapshot: %w", err)
	}
	loaded.fill()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot = loaded
	return nil
}

// own records that a VM has a volume, so that destroying the VM forgets it.
func (s *snapshot) own(vmid int, volume string) {
	if volume != "" && !slices.Contains(s.Owned[vmid], volume) {
		s.Owned[vmid] = append(s.Owned[vmid], volume)
	}
}

func (s *snapshot) disk(volume string) *diskState {
	d, ok := s.Disks[volume]
	if !ok {
		d = &diskState{UUID: uuid.NewString(), Volumes: map[string]*volumeState{}}
		s.Disks[volume] = d
	}
	if d.Volumes == nil {
		d.Volumes = map[string]*volumeState{}
	}
	return d
}

func (s *snapshot) firmware(volume string) *firmwareState {
	f, ok := s.Firmware[volume]
	if !ok {
		f = &firmwareState{}
		s.Firmware[volume] = f
	}
	return f
}

func (s *snapshot) tpm(volume string) string {
	if volume == "" {
		return ""
	}
	if s.TPMs[volume] == "" {
		s.TPMs[volume] = uuid.NewString()
	}
	return s.TPMs[volume]
}

// forget drops a VM's volumes, and etcd clusters that no disk holds any more.
func (s *snapshot) forget(vmid int) {
	for _, v := range s.Owned[vmid] {
		delete(s.Disks, v)
		delete(s.Firmware, v)
		delete(s.TPMs, v)
	}
	delete(s.Owned, vmid)
	held := map[string]bool{}
	for _, d := range s.Disks {
		for _, v := range d.Volumes {
			held[v.EtcdGeneration] = true
		}
	}
	for generation := range s.Etcd {
		if !held[generation] {
			delete(s.Etcd, generation)
		}
	}
}
