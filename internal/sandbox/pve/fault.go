package pve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault makes calls go wrong on purpose. The first part selects calls, the second says what happens to them; several effects
// may be combined.
type Fault struct {
	// ID names the fault; AddFault chooses one.
	ID string `json:"id,omitempty"`

	// Method is an HTTP method; empty matches all.
	Method string `json:"method,omitempty"`
	// Path selects API paths without /api2/json, e.g. /nodes/*/qemu/101/status/start. A * stands for one path element or a
	// part of it, ** for any number of elements; empty matches all.
	Path string `json:"path,omitempty"`
	// Nth fires on the nth matching call only (1 is the first); 0 fires on each.
	Nth int `json:"nth,omitempty"`
	// Times ends the fault after it has fired so often; 0 means never.
	Times int `json:"times,omitempty"`

	// Status answers with this HTTP status instead of handling the call; Reason is the reason phrase (the status' own text
	// when empty) and Errors the per-parameter messages in the body.
	Status int               `json:"status,omitempty"`
	Reason string            `json:"reason,omitempty"`
	Errors map[string]string `json:"errors,omitempty"`
	// Delay waits before anything else happens.
	Delay Duration `json:"delay,omitempty"`
	// Drop closes the connection without an answer: "before" the call is handled or "after" it.
	Drop string `json:"drop,omitempty"`
	// TaskDelay keeps the task that the call starts running for so long before it does its work.
	TaskDelay Duration `json:"taskDelay,omitempty"`
	// TaskExit is the exit status of that task. With "WARNINGS: n" the task does its work, with any other text it fails
	// without having done it.
	TaskExit string `json:"taskExit,omitempty"`
	// AgentSilent makes the guest agent not answer, as during boot. Together with Times: for so many polls.
	AgentSilent bool `json:"agentSilent,omitempty"`
	// LinkLocalOnly makes the guest agent report link-local addresses only, as before the network is configured.
	LinkLocalOnly bool `json:"linkLocalOnly,omitempty"`

	// Matched and Fired count the calls so far.
	Matched int `json:"matched,omitempty"`
	Fired   int `json:"fired,omitempty"`
}

// Duration is a time.Duration that reads and writes JSON text such as "1.5s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// agentPath is where the agent effects act when a fault names no path.
const agentPath = "/nodes/*/qemu/*/agent/network-get-interfaces"

// Validate reports everything that is wrong with a fault.
func (f Fault) Validate() error {
	var defects []string
	add := func(format string, args ...any) { defects = append(defects, fmt.Sprintf(format, args...)) }
	if f.Method != "" && !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}, f.Method) {
		add("method %q: want GET, POST, PUT or DELETE", f.Method)
	}
	if f.Path != "" && !strings.HasPrefix(f.Path, "/") && !strings.HasPrefix(f.Path, "*") {
		add("path %q: want a leading slash", f.Path)
	}
	if _, err := path.Match(strings.ReplaceAll(f.Path, "**", "*"), ""); err != nil {
		add("path %q: %v", f.Path, err)
	}
	if f.Nth < 0 || f.Times < 0 {
		add("nth %d, times %d: want 0 or more", f.Nth, f.Times)
	}
	if f.Status != 0 && (f.Status < 400 || f.Status > 599) {
		add("status %d: want 400 to 599", f.Status)
	}
	if f.Status == 0 && (f.Reason != "" || len(f.Errors) > 0) {
		add("reason and errors need a status")
	}
	if strings.ContainsAny(f.Reason, "\r\n") {
		add("reason %q: want one line", f.Reason)
	}
	if !slices.Contains([]string{"", "before", "after"}, f.Drop) {
		add("drop %q: want before or after", f.Drop)
	}
	if f.Delay < 0 || f.TaskDelay < 0 {
		add("delays must not be negative")
	}
	if f.Status == 0 && f.Delay == 0 && f.Drop == "" && f.TaskDelay == 0 && f.TaskExit == "" && !f.AgentSilent && !f.LinkLocalOnly {
		add("it has no effect: set status, delay, drop, taskDelay, taskExit, agentSilent or linkLocalOnly")
	}
	if len(defects) == 0 {
		return nil
	}
	return fmt.Errorf("fault: %s", strings.Join(defects, "; "))
}

// ParseFault reads a fault from JSON; unknown keys are errors.
func ParseFault(raw []byte) (Fault, error) {
	var f Fault
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return Fault{}, fmt.Errorf("fault: %w", err)
	}
	return f, f.Validate()
}

// AddFault arms a fault and returns its ID.
func (s *Server) AddFault(f Fault) (string, error) {
	if err := f.Validate(); err != nil {
		return "", err
	}
	if f.Path == "" && (f.AgentSilent || f.LinkLocalOnly) {
		f.Path = agentPath
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faultCount++
	f.ID, f.Matched, f.Fired = "fault-"+strconv.Itoa(s.faultCount), 0, 0
	s.faults = append(s.faults, &f)
	return f.ID, nil
}

// Faults lists the armed faults with their counts.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Fault, 0, len(s.faults))
	for _, f := range s.faults {
		list = append(list, *f)
	}
	return list
}

// ClearFault disarms a fault; false means that there is none with this ID.
func (s *Server) ClearFault(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.faults)
	s.faults = slices.DeleteFunc(s.faults, func(f *Fault) bool { return f.ID == id })
	return len(s.faults) < before
}

// ClearFaults disarms all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// fire finds the first fault for a call, counts it, and returns a copy. The caller holds the lock.
func (s *Server) fire(method, apiPath string) *Fault {
	var fired *Fault
	for _, f := range s.faults {
		if f.Method != "" && f.Method != method || !matchPath(f.Path, apiPath) {
			continue
		}
		f.Matched++
		if fired != nil || f.Nth > 0 && f.Matched != f.Nth || f.Times > 0 && f.Fired >= f.Times {
			continue
		}
		f.Fired++
		effects := *f
		fired = &effects
	}
	return fired
}

func matchPath(pattern, apiPath string) bool {
	return pattern == "" || matchSegments(splitPath(pattern), splitPath(apiPath))
}

func matchSegments(pattern, parts []string) bool {
	if len(pattern) == 0 {
		return len(parts) == 0
	}
	if pattern[0] == "**" {
		for skip := range len(parts) + 1 {
			if matchSegments(pattern[1:], parts[skip:]) {
				return true
			}
		}
		return false
	}
	if len(parts) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], parts[0])
	return err == nil && ok && matchSegments(pattern[1:], parts[1:])
}

// SetStorageFull takes all free space from a storage on every node, or gives it back.
func (s *Server) SetStorageFull(storage string, full bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.storages[storage]; !ok {
		return fmt.Errorf("storage %q does not exist; there are %s", storage, strings.Join(sortedKeys(s.storages), ", "))
	}
	s.state.Full[storage] = full
	return nil
}

// SetTokenRevoked revokes an API token (user@realm!name), or reinstates it.
func (s *Server) SetTokenRevoked(id string, revoked bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.tokens[id]; !ok {
		return fmt.Errorf("token %q does not exist; there are %s", id, strings.Join(sortedKeys(s.tokens), ", "))
	}
	s.state.Revoked[id] = revoked
	return nil
}
