package pve

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Request is one API call in the log.
type Request struct {
	Time   time.Time         `json:"time"`
	Method string            `json:"method"`
	Path   string            `json:"path"` // below /api2/json
	Params map[string]string `json:"params,omitempty"`
	User   string            `json:"user,omitempty"` // token ID
	Status int               `json:"status"`         // 0 when the connection was dropped
	Reason string            `json:"reason,omitempty"`
	Fault  string            `json:"fault,omitempty"` // ID of the fault that fired
}

// maxRequests bounds the log.
const maxRequests = 20000

// Requests lists the calls so far, oldest first. Secrets are redacted.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ClearRequests empties the log.
func (s *Server) ClearRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

func (c *call) record(err error) {
	entry := Request{
		Time: c.server.options.Now(), Method: c.request.Method, Path: c.path, User: c.user, Status: http.StatusOK,
		Params: map[string]string{},
	}
	if c.fault != nil {
		entry.Fault = c.fault.ID
	}
	switch {
	case err == errDropped: //nolint:errorlint // never wrapped
		entry.Status = 0
	case err != nil:
		e := asAPIError(err)
		entry.Status, entry.Reason = e.status, e.message
	}
	for name, v := range c.given {
		text := v.text
		if isSecret(name) {
			text = "<hidden>"
		}
		entry.Params[name] = text
	}
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) >= maxRequests {
		s.requests = slices.Delete(s.requests, 0, maxRequests/10)
	}
	s.requests = append(s.requests, entry)
}

func isSecret(name string) bool {
	return strings.Contains(name, "password") || name == "sshkeys" || name == "keyring" || name == "token"
}

// Inventory is what exists on the simulated installation.
type Inventory struct {
	Machines []MachineInfo `json:"machines"`
	Volumes  []VolumeInfo  `json:"volumes"`
}

// MachineInfo describes a virtual machine.
type MachineInfo struct {
	VMID    int               `json:"vmid"`
	Node    string            `json:"node"`
	Name    string            `json:"name"`
	Running bool              `json:"running"`
	Config  map[string]string `json:"config"`
	Pending map[string]string `json:"pending,omitempty"`
}

// VolumeInfo describes a volume.
type VolumeInfo struct {
	Node    string `json:"node"`
	ID      string `json:"id"` // e.g. local-lvm:vm-101-disk-0
	Content string `json:"content"`
	Bytes   int64  `json:"bytes"`
	VMID    int    `json:"vmid,omitempty"`
	// File holds the content on this machine; empty for disks.
	File string `json:"file,omitempty"`
}

// Inventory lists all machines and volumes, sorted.
func (s *Server) Inventory() Inventory {
	s.mu.Lock()
	defer s.mu.Unlock()
	inventory := Inventory{Machines: []MachineInfo{}, Volumes: []VolumeInfo{}}
	for _, vmid := range slices.Sorted(maps.Keys(s.state.Machines)) {
		m := s.state.Machines[vmid]
		inventory.Machines = append(inventory.Machines, MachineInfo{
			VMID: vmid, Node: m.Node, Name: m.name(), Running: m.running(),
			Config: maps.Clone(m.Config), Pending: maps.Clone(m.Pending),
		})
	}
	for _, key := range sortedKeys(s.state.Volumes) {
		v := s.state.Volumes[key]
		inventory.Volumes = append(inventory.Volumes, VolumeInfo{
			Node: v.Node, ID: v.id(), Content: v.Content, Bytes: v.Size, VMID: v.VMID, File: v.File,
		})
	}
	return inventory
}
