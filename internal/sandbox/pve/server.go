package pve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Options describe a simulated Proxmox installation.
type Options struct {
	// Nodes are the cluster's members; default pve. The API answers for all of them, as every real node does.
	Nodes []string
	// Guests powers the machines. Required.
	Guests Guests
	// Storages exist on every node; default DefaultStorages.
	Storages []Storage
	// Bridges exist on every node; default vmbr0.
	Bridges []string
	// Tokens are the API tokens by ID (user@realm!name).
	Tokens map[string]Token
	// Fetch downloads for download-url and query-url-metadata; default http.DefaultClient.
	Fetch *http.Client
	// Dir is where the contents of file storages are kept on this machine. Required.
	Dir string
	// Now is the clock; default time.Now.
	Now func() time.Time
	// TaskDelay keeps every task running for so long before it does its work.
	TaskDelay time.Duration
	// CPUs and Memory (bytes) are the size of each node; default 32 and 128 GiB.
	CPUs   int
	Memory int64
	// FixedQ35IDE lets CD-ROMs on ide1 and ide3 of a q35 machine start. Proxmox does so since qemu-server 8.0.7 (2023), so
	// PVE 8.4 too; the default keeps the older failure, because a program that relies on the fix breaks on older nodes.
	FixedQ35IDE bool
	// Changed is called without locks after the state may have changed, to save a Snapshot.
	Changed func()
}

// Server is a simulated Proxmox VE installation. Its methods are safe for concurrent use.
type Server struct {
	options  Options
	schema   *schema
	handlers map[string]handler
	http     *http.Server
	started  time.Time

	ctx     context.Context
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu         sync.Mutex
	state      *state
	tokens     map[string]Token
	storages   map[string]Storage
	faults     []*Fault
	faultCount int
	requests   []Request
	locks      map[int]chan struct{} // per machine, held while a task changes it
}

// New checks the options and makes a server with no machines.
func New(options Options) (*Server, error) {
	if options.Guests == nil {
		return nil, errors.New("simulated Proxmox: Options.Guests is missing")
	}
	if options.Dir == "" {
		return nil, errors.New("simulated Proxmox: Options.Dir is missing")
	}
	options.setDefaults()
	s := &Server{
		options: options, started: options.Now(), state: newState(), tokens: map[string]Token{}, storages: map[string]Storage{},
		locks: map[int]chan struct{}{},
	}
	for _, node := range options.Nodes {
		if !nodePattern.MatchString(node) {
			return nil, fmt.Errorf("simulated Proxmox: node %q: want letters, digits and dashes", node)
		}
	}
	for id, token := range options.Tokens {
		if err := token.validate(id); err != nil {
			return nil, fmt.Errorf("simulated Proxmox: %w", err)
		}
		s.tokens[id] = token
	}
	for _, storage := range options.Storages {
		if err := storage.validate(); err != nil {
			return nil, fmt.Errorf("simulated Proxmox: %w", err)
		}
		s.storages[storage.Name] = storage
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("simulated Proxmox: %w", err)
	}
	s.options.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("simulated Proxmox: %w", err)
	}
	loaded, err := loadSchema()
	if err != nil {
		return nil, fmt.Errorf("simulated Proxmox: %w", err)
	}
	s.schema, s.handlers = loaded, handlers()
	for key := range s.handlers {
		if !slices.ContainsFunc(loaded.methods, func(m *method) bool { return m.verb+" "+m.path == key }) {
			return nil, fmt.Errorf("simulated Proxmox: the schema lacks %s", key)
		}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	// Proxmox speaks HTTP/1.1 only, and only there a reason phrase exists.
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	return s, nil
}

func (o *Options) setDefaults() {
	if len(o.Nodes) == 0 {
		o.Nodes = []string{"pve"}
	}
	if len(o.Storages) == 0 {
		o.Storages = DefaultStorages()
	}
	if len(o.Bridges) == 0 {
		o.Bridges = []string{"vmbr0"}
	}
	if o.Fetch == nil {
		o.Fetch = http.DefaultClient
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CPUs == 0 {
		o.CPUs = 32
	}
	if o.Memory == 0 {
		o.Memory = 128 << 30
	}
}

// Serve answers HTTPS on l until Close, with TLS 1.3 and HTTP/1.1.
func (s *Server) Serve(l net.Listener, certificate tls.Certificate) error {
	secure := tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"},
	})
	if err := s.http.Serve(secure); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("simulated Proxmox: %w", err)
	}
	return nil
}

// Close stops serving, interrupts running tasks and waits for them. Guests stay as they are.
func (s *Server) Close() error {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	err := s.http.Close()
	s.workers.Wait()
	return err
}

func (s *Server) changed() {
	if s.options.Changed != nil {
		s.options.Changed()
	}
}

// GuestStopped tells the hypervisor that a guest has powered itself off. It is not to be called for a guest that stops because
// of Guests.Shutdown or Guests.PowerOff: the hypervisor knows, and may have started it again meanwhile.
func (s *Server) GuestStopped(vmid int) {
	s.mu.Lock()
	if m := s.state.Machines[vmid]; m != nil && m.running() {
		s.halted(m)
	}
	s.mu.Unlock()
	s.changed()
}

// PowerLoss cuts a guest's power without a task, as when its process dies.
func (s *Server) PowerLoss(vmid int) error {
	s.mu.Lock()
	m := s.state.Machines[vmid]
	if m == nil || !m.running() {
		s.mu.Unlock()
		return fmt.Errorf("virtual machine %d is not running", vmid)
	}
	s.halted(m)
	s.mu.Unlock()
	s.options.Guests.PowerOff(vmid)
	s.changed()
	return nil
}

// handler answers a method. It runs with the server's lock held.
type handler func(c *call) (any, error)

// handlers lists what is simulated. The schema's other methods answer 501.
func handlers() map[string]handler {
	return map[string]handler{
		"GET /":                                                      rootIndex,
		"GET /version":                                               version,
		"GET /access/permissions":                                    accessPermissions,
		"GET /cluster/nextid":                                        nextID,
		"GET /cluster/resources":                                     clusterResources,
		"GET /cluster/status":                                        clusterStatus,
		"GET /nodes":                                                 nodeList,
		"GET /nodes/{node}/status":                                   nodeStatus,
		"GET /nodes/{node}/version":                                  version,
		"GET /nodes/{node}/network":                                  networkList,
		"GET /storage":                                               storageConfig,
		"GET /nodes/{node}/storage":                                  storageList,
		"GET /pools":                                                 poolList,
		"POST /pools":                                                poolCreate,
		"PUT /pools":                                                 poolUpdate,
		"DELETE /pools":                                              poolDelete,
		"GET /pools/{poolid}":                                        poolRead,
		"PUT /pools/{poolid}":                                        poolUpdate,
		"DELETE /pools/{poolid}":                                     poolDelete,
		"GET /nodes/{node}/tasks":                                    taskList,
		"GET /nodes/{node}/qemu":                                     machineList,
		"POST /nodes/{node}/qemu":                                    machineCreate,
		"GET /nodes/{node}/tasks/{upid}":                             taskIndex,
		"DELETE /nodes/{node}/tasks/{upid}":                          taskStop,
		"GET /nodes/{node}/tasks/{upid}/status":                      taskStatus,
		"GET /nodes/{node}/tasks/{upid}/log":                         taskLog,
		"GET /nodes/{node}/query-url-metadata":                       queryURLMetadata,
		"GET /nodes/{node}/storage/{storage}/status":                 storageStatus,
		"GET /nodes/{node}/storage/{storage}/content":                contentList,
		"POST /nodes/{node}/storage/{storage}/content":               contentCreate,
		"GET /nodes/{node}/storage/{storage}/content/{volume}":       contentRead,
		"DELETE /nodes/{node}/storage/{storage}/content/{volume}":    contentDelete,
		"POST /nodes/{node}/storage/{storage}/download-url":          downloadURL,
		"POST /nodes/{node}/storage/{storage}/upload":                upload,
		"GET /nodes/{node}/qemu/{vmid}":                              machineIndex,
		"DELETE /nodes/{node}/qemu/{vmid}":                           machineDelete,
		"GET /nodes/{node}/qemu/{vmid}/config":                       configRead,
		"PUT /nodes/{node}/qemu/{vmid}/config":                       configUpdate,
		"POST /nodes/{node}/qemu/{vmid}/config":                      configUpdateTask,
		"GET /nodes/{node}/qemu/{vmid}/pending":                      pendingRead,
		"PUT /nodes/{node}/qemu/{vmid}/resize":                       diskResize,
		"GET /nodes/{node}/qemu/{vmid}/status/current":               machineStatus,
		"POST /nodes/{node}/qemu/{vmid}/status/start":                machineStart,
		"POST /nodes/{node}/qemu/{vmid}/status/stop":                 machineStop,
		"POST /nodes/{node}/qemu/{vmid}/status/shutdown":             machineShutdown,
		"POST /nodes/{node}/qemu/{vmid}/status/reboot":               machineReboot,
		"GET /nodes/{node}/qemu/{vmid}/agent/network-get-interfaces": agentInterfaces,
	}
}
