package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errDropped marks a call whose connection a fault drops.
var errDropped = errors.New("connection dropped by a fault")

// Duration is a time.Duration that reads and writes as text, e.g. "250ms".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Fault disturbs API calls where they enter a machine, before authorisation. It applies in this order: Delay, Drop, Code.
type Fault struct {
	// ID is assigned by AddFault when empty.
	ID string `json:"id,omitempty"`
	// VMID limits the fault to one machine; 0 means all.
	VMID int `json:"vmid,omitempty"`
	// Method is a full gRPC method, e.g. /machine.MachineService/ApplyConfiguration; empty means all.
	Method string `json:"method,omitempty"`
	// Nth is the first matching call that is disturbed, counted from 1; 0 means the first.
	Nth int `json:"nth,omitempty"`
	// Times is how many calls are disturbed from then on; 0 means all.
	Times int `json:"times,omitempty"`
	// Delay waits before going on.
	Delay Duration `json:"delay,omitempty"`
	// Drop closes the connection without an answer.
	Drop bool `json:"drop,omitempty"`
	// Code is a gRPC code in capitals, e.g. UNAVAILABLE, answered with Message. Empty lets the call through.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// Seen counts the matching calls so far.
	Seen int `json:"seen"`
}

func (f Fault) code() (codes.Code, error) {
	if f.Code == "" {
		return codes.OK, nil
	}
	var c codes.Code
	if err := json.Unmarshal([]byte(strconv.Quote(f.Code)), &c); err != nil {
		return codes.OK, fmt.Errorf("fault: %q is no gRPC code, want one like UNAVAILABLE", f.Code)
	}
	return c, nil
}

// AddFault starts disturbing calls and returns the fault's ID.
func (r *Rack) AddFault(f Fault) (string, error) {
	if _, err := f.code(); err != nil {
		return "", err
	}
	if f.Method != "" && f.Method[0] != '/' {
		return "", fmt.Errorf("fault: method %q is no full gRPC method, want one like /machine.MachineService/Version", f.Method)
	}
	if f.Delay == 0 && !f.Drop && f.Code == "" {
		return "", errors.New("fault: nothing to do, give a delay, a drop or a code")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.ID == "" {
		r.faultCount++
		f.ID = "machine-" + strconv.Itoa(r.faultCount)
	}
	if slices.ContainsFunc(r.faults, func(o *Fault) bool { return o.ID == f.ID }) {
		return "", fmt.Errorf("fault: %q exists already", f.ID)
	}
	f.Seen = 0
	r.faults = append(r.faults, &f)
	return f.ID, nil
}

// Faults lists the active faults with their counters.
func (r *Rack) Faults() []Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Fault, 0, len(r.faults))
	for _, f := range r.faults {
		list = append(list, *f)
	}
	return list
}

// ClearFault ends one fault, or all when id is empty. It returns how many it ended.
func (r *Rack) ClearFault(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.faults)
	r.faults = slices.DeleteFunc(r.faults, func(f *Fault) bool { return id == "" || f.ID == id })
	return before - len(r.faults)
}

// disturb applies the faults to one call. It returns errDropped or a gRPC status error, or nil to go on.
func (r *Rack) disturb(ctx context.Context, vmid int, method string) error {
	for _, f := range r.matching(vmid, method) {
		if f.Delay > 0 {
			t := time.NewTimer(time.Duration(f.Delay))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return status.FromContextError(ctx.Err()).Err()
			}
		}
		if f.Drop {
			return errDropped
		}
		if c, _ := f.code(); c != codes.OK {
			return status.Error(c, f.Message)
		}
	}
	return nil
}

func (r *Rack) matching(vmid int, method string) []Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due []Fault
	for _, f := range r.faults {
		if (f.VMID != 0 && f.VMID != vmid) || (f.Method != "" && f.Method != method) {
			continue
		}
		f.Seen++
		first := max(f.Nth, 1)
		if f.Seen >= first && (f.Times == 0 || f.Seen < first+f.Times) {
			due = append(due, *f)
		}
	}
	return due
}
