package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/pve"
)

// Fault is one thing that goes wrong on purpose; exactly one field is set.
type Fault struct {
	// Proxmox disturbs calls of the Proxmox API, Talos those of the machines' API.
	Proxmox *pve.Fault     `json:"proxmox,omitempty"`
	Talos   *machine.Fault `json:"talos,omitempty"`
	// PowerLoss cuts the power of the VM with this number, once.
	PowerLoss int `json:"powerLoss,omitempty"`
	// StorageFull takes all free space from a storage; TokenRevoked revokes the program's API token. Both last until cleared.
	StorageFull  string `json:"storageFull,omitempty"`
	TokenRevoked bool   `json:"tokenRevoked,omitempty"`
}

// Status describes running hardware.
type Status struct {
	PID       int              `json:"pid"`
	Since     time.Time        `json:"since"`
	Proxy     string           `json:"proxy"`
	Inventory pve.Inventory    `json:"inventory"`
	Machines  []machine.Status `json:"machines"`
	Faults    []Fault          `json:"faults"`
}

// address is what running hardware leaves in its folder.
type address struct {
	PID   int    `json:"pid"`
	URL   string `json:"url"`
	Proxy string `json:"proxy"`
	Token string `json:"token"`
}

type controlServer struct {
	lab      *Lab
	address  address
	since    time.Time
	server   *http.Server
	stopping chan struct{}
	once     sync.Once

	mu      sync.Mutex
	full    []string
	revoked bool
}

const addressFile = "address.json"

// startControl opens the door for the command line: HTTP on loopback, for those who can read the token in the folder.
func startControl(ctx context.Context, l *Lab) (*controlServer, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &controlServer{lab: l, since: time.Now(), stopping: make(chan struct{})}
	c.address = address{PID: os.Getpid(), URL: "http://" + listener.Addr().String(), Proxy: l.LAN.ProxyURL(), Token: rand.Text()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.status(), nil) })
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { answer(w, l.Proxmox.Requests(), nil) })
	mux.HandleFunc("GET /logs/{vmid}", func(w http.ResponseWriter, r *http.Request) {
		var vmid int
		_, err := fmt.Sscan(r.PathValue("vmid"), &vmid)
		answer(w, l.Rack.Logs(vmid), err)
	})
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var fault Fault
		dec := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&fault); err != nil {
			answer(w, nil, err)
			return
		}
		id, err := c.addFault(fault)
		answer(w, id, err)
	})
	mux.HandleFunc("DELETE /faults/{id}", func(w http.ResponseWriter, r *http.Request) { answer(w, nil, c.clearFault(r.PathValue("id"))) })
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, c.clearFaults()) })
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, nil)
		c.once.Do(func() { close(c.stopping) })
	})
	c.server = &http.Server{Handler: c.authorised(mux), ReadHeaderTimeout: 10 * time.Second}
	l.done.Go(func() { _ = c.server.Serve(listener) })
	raw, err := json.Marshal(c.address)
	if err != nil {
		return c, err
	}
	return c, writeFile(l.folder.hardware(addressFile), raw)
}

func (c *controlServer) authorised(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(given), []byte(c.address.Token)) != 1 {
			http.Error(w, "not authorised", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *controlServer) close() error {
	return errors.Join(c.server.Close(), os.Remove(c.lab.folder.hardware(addressFile)))
}

func (c *controlServer) status() Status {
	return Status{
		PID: c.address.PID, Since: c.since, Proxy: c.address.Proxy,
		Inventory: c.lab.Proxmox.Inventory(), Machines: c.lab.Rack.Status(), Faults: c.faults(),
	}
}

func (c *controlServer) faults() []Fault {
	faults := []Fault{}
	for _, f := range c.lab.Proxmox.Faults() {
		faults = append(faults, Fault{Proxmox: &f})
	}
	for _, f := range c.lab.Rack.Faults() {
		faults = append(faults, Fault{Talos: &f})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, storage := range c.full {
		faults = append(faults, Fault{StorageFull: storage})
	}
	if c.revoked {
		faults = append(faults, Fault{TokenRevoked: true})
	}
	return faults
}

func (c *controlServer) addFault(f Fault) (string, error) {
	switch {
	case f.Proxmox != nil:
		return c.lab.Proxmox.AddFault(*f.Proxmox)
	case f.Talos != nil:
		return c.lab.Rack.AddFault(*f.Talos)
	case f.PowerLoss != 0:
		return "power-loss", c.lab.Proxmox.PowerLoss(f.PowerLoss)
	case f.StorageFull != "":
		if err := c.lab.Proxmox.SetStorageFull(f.StorageFull, true); err != nil {
			return "", err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !slices.Contains(c.full, f.StorageFull) {
			c.full = append(c.full, f.StorageFull)
		}
		return "full-" + f.StorageFull, nil
	case f.TokenRevoked:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.revoked = true
		return "token-revoked", c.lab.Proxmox.SetTokenRevoked(TokenID, true)
	}
	return "", errors.New("fault: nothing to do: set one of proxmox, talos, powerLoss, storageFull, tokenRevoked")
}

func (c *controlServer) clearFault(id string) error {
	storage, isFull := strings.CutPrefix(id, "full-")
	switch {
	case isFull:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.full = slices.DeleteFunc(c.full, func(s string) bool { return s == storage })
		return c.lab.Proxmox.SetStorageFull(storage, false)
	case id == "token-revoked":
		c.mu.Lock()
		defer c.mu.Unlock()
		c.revoked = false
		return c.lab.Proxmox.SetTokenRevoked(TokenID, false)
	case c.lab.Proxmox.ClearFault(id):
	case c.lab.Rack.ClearFault(id) > 0:
	default:
		return fmt.Errorf("fault %q: there is none with this ID: `fault list` shows them", id)
	}
	return nil
}

func (c *controlServer) clearFaults() error {
	c.lab.Proxmox.ClearFaults()
	c.lab.Rack.ClearFault("")
	c.mu.Lock()
	full := slices.Clone(c.full)
	c.mu.Unlock()
	errs := []error{c.clearFault("token-revoked")}
	for _, storage := range full {
		errs = append(errs, c.clearFault("full-"+storage))
	}
	return errors.Join(errs...)
}

func answer(w http.ResponseWriter, value any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		value = map[string]string{"error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(value)
}

// ErrNotRunning is what Connect returns when no hardware runs in the folder.
var ErrNotRunning = errors.New("the simulated hardware does not run")

// Remote is running hardware in another process, or this one.
type Remote struct {
	PID int
	// Proxy is the address of the simulated network.
	Proxy string

	address address
}

// Connect finds the hardware that runs in a folder, or returns ErrNotRunning.
func Connect(ctx context.Context, folder Folder) (*Remote, error) {
	raw, err := os.ReadFile(folder.hardware(addressFile))
	if err != nil {
		return nil, ErrNotRunning
	}
	r := &Remote{}
	if err := json.Unmarshal(raw, &r.address); err != nil {
		return nil, ErrNotRunning
	}
	r.PID, r.Proxy = r.address.PID, r.address.Proxy
	if _, err := r.Status(ctx); err != nil {
		return nil, ErrNotRunning
	}
	return r, nil
}

// Status asks how the hardware is.
func (r *Remote) Status(ctx context.Context) (Status, error) {
	var status Status
	return status, r.call(ctx, http.MethodGet, "/status", nil, &status)
}

// Requests lists the Proxmox API's calls so far.
func (r *Remote) Requests(ctx context.Context) ([]pve.Request, error) {
	var requests []pve.Request
	return requests, r.call(ctx, http.MethodGet, "/requests", nil, &requests)
}

// Logs returns a machine's log.
func (r *Remote) Logs(ctx context.Context, vmid int) ([]string, error) {
	var lines []string
	return lines, r.call(ctx, http.MethodGet, fmt.Sprintf("/logs/%d", vmid), nil, &lines)
}

// AddFault arms a fault and returns its ID.
func (r *Remote) AddFault(ctx context.Context, f Fault) (string, error) {
	var id string
	return id, r.call(ctx, http.MethodPost, "/faults", f, &id)
}

// ClearFault disarms the fault with this ID, all of them when it is empty.
func (r *Remote) ClearFault(ctx context.Context, id string) error {
	path := "/faults"
	if id != "" {
		path += "/" + id
	}
	return r.call(ctx, http.MethodDelete, path, nil, nil)
}

// Stop asks the hardware to stop; it does so soon after.
func (r *Remote) Stop(ctx context.Context) error {
	return r.call(ctx, http.MethodPost, "/stop", nil, nil)
}

func (r *Remote) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return fmt.Errorf("simulated hardware: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, r.address.URL+path, &body)
	if err != nil {
		return fmt.Errorf("simulated hardware: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+r.address.Token)
	// Straight to loopback, whatever proxy the environment names.
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return fmt.Errorf("simulated hardware: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if response.StatusCode != http.StatusOK {
		var failure struct {
			Error string `json:"error"`
		}
		_ = json.NewDecoder(response.Body).Decode(&failure)
		return fmt.Errorf("simulated hardware: %s (%s)", failure.Error, response.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(out); err != nil {
		return fmt.Errorf("simulated hardware: %w", err)
	}
	return nil
}
