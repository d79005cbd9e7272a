package pve

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // Proxmox's digest
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// qemuVersion is what PVE 8.4 ships.
const qemuVersion = "9.2.0"

// machineCreate is POST /nodes/{node}/qemu.
func machineCreate(c *call) (any, error) {
	s, vmid, node := c.server, c.vmid(), c.node
	if c.params["archive"] != "" {
		return nil, notImplemented(c.method.verb, c.path+" (archive: restoring a backup is not simulated)")
	}
	params := maps.Clone(c.params)
	for _, name := range []string{
		"node", "vmid", "archive", "bwlimit", "force", "pool", "start", "storage", "unique", "live-restore", "import-working-storage",
	} {
		delete(params, name)
	}
	pool, storage := c.params["pool"], c.params["storage"]
	if err := c.mayCreate(vmid, pool, storage); err != nil {
		return nil, err
	}
	clampCPUUnits(params)
	resolveCDROM(params)
	if err := c.checkDriveAccess(vmid, params, storage); err != nil {
		return nil, err
	}
	if err := c.mayConfigure(vmid, pool, params); err != nil {
		return nil, err
	}
	if err := c.checkDrives(params); err != nil {
		return nil, err
	}
	for option := range params {
		if isNet(option) {
			params[option] = s.schema.normalNet(params[option])
		}
	}
	if other := s.state.Machines[vmid]; other != nil {
		return nil, die("unable to create VM %d - VM %d already exists on node '%s'", vmid, vmid, other.Node)
	}
	s.state.Machines[vmid] = &machine{VMID: vmid, Node: node, Config: map[string]string{"lock": "create"}}
	startAfter := c.params["start"] == "1"
	remove := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if m := s.state.Machines[vmid]; m != nil && m.Config["lock"] == "create" {
			delete(s.state.Machines, vmid)
		}
	}
	return c.fork(job{kind: "qmcreate", id: strconv.Itoa(vmid), node: node, failed: remove, run: func(ctx context.Context, w *worker) error {
		if err := s.create(w, node, vmid, params, pool, storage); err != nil {
			return err
		}
		if startAfter {
			w.log("Execute autostart")
			return s.startLocked(ctx, w, vmid)
		}
		return nil
	}}), nil
}

func (c *call) mayCreate(vmid int, pool, storage string) error {
	if pool != "" && c.server.state.Pools[pool] == nil {
		return permissionError("pool '" + pool + "' does not exist")
	}
	if storage != "" {
		if err := c.require("/storage/"+storage, "Datastore.AllocateSpace"); err != nil {
			return err
		}
	}
	if c.may("/vms/"+strconv.Itoa(vmid), "VM.Allocate") || pool != "" && c.may("/pool/"+pool, "VM.Allocate") {
		return nil
	}
	return permissionError("")
}

// create does the work of a qmcreate task.
func (s *Server) create(w *worker, node string, vmid int, params map[string]string, pool, storage string) error {
	s.mu.Lock()
	config := maps.Clone(params)
	config["meta"] = fmt.Sprintf("creation-qemu=%s,ctime=%d", qemuVersion, s.options.Now().Unix())
	disks, err := s.createDisks(node, vmid, params, storage)
	if err != nil {
		s.mu.Unlock()
		return die("unable to create VM %d - %s", vmid, flatten(err))
	}
	maps.Copy(config, disks.options)
	if config["boot"] == "" {
		config["boot"] = s.schema.defaultBoot(config)
	}
	if config["smbios1"] == "" {
		config["smbios1"] = "uuid=" + newUUID()
	}
	if id := config["vmgenid"]; id == "" || id == "1" {
		config["vmgenid"] = newUUID()
	}
	s.state.Machines[vmid] = &machine{VMID: vmid, Node: node, Config: config}
	if p := s.state.Pools[pool]; p != nil {
		p.Machines[vmid] = true
	}
	s.mu.Unlock()
	for _, line := range disks.log {
		w.log("%s", line)
	}
	return nil
}

// clampCPUUnits limits the CPU weight to what cgroup v2 allows.
func clampCPUUnits(params map[string]string) {
	if units, err := strconv.Atoi(params["cpuunits"]); err == nil && units > 10000 {
		params["cpuunits"] = "10000"
	}
}

func isNet(option string) bool {
	return strings.HasPrefix(option, "net") && bootDevPattern.MatchString(option)
}

// normalNet prints a network device as Proxmox stores it and gives it an address when it has none.
func (s *schema) normalNet(text string) string {
	f := s.config["net0"].Format.fields
	values, err := s.parseProperties(f, text, "")
	if err != nil {
		return text // the schema check has refused it before
	}
	if values["macaddr"] == "" {
		values["macaddr"] = newMAC()
	}
	return printProperties(f, values)
}

// newMAC makes an address with Proxmox's own prefix, the datacenter default since PVE 8.1.
func newMAC() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return fmt.Sprintf("BC:24:11:%02X:%02X:%02X", b[0], b[1], b[2])
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// find returns a machine of the call's node, or Proxmox's error.
func (s *Server) find(node string, vmid int) (*machine, error) {
	if m := s.state.Machines[vmid]; m != nil && (node == "" || m.Node == node) {
		return m, nil
	}
	if node == "" {
		node = s.options.Nodes[0]
	}
	return nil, die("Configuration file 'nodes/%s/qemu-server/%d.conf' does not exist", node, vmid)
}

func (m *machine) checkLock() error {
	if lock := m.Config["lock"]; lock != "" {
		return die("VM is locked (%s)", lock)
	}
	return nil
}

func (m *machine) checkProtection(what string) error {
	if m.Config["protection"] == "1" {
		return die("%s - protection mode enabled", what)
	}
	return nil
}

// lockMachine takes a machine's lock file. The caller must not hold the server's lock.
func (s *Server) lockMachine(ctx context.Context, vmid int) (release func(), err error) {
	s.mu.Lock()
	if s.locks[vmid] == nil {
		s.locks[vmid] = make(chan struct{}, 1)
	}
	lock := s.locks[vmid]
	s.mu.Unlock()
	timer := time.NewTimer(lockTimeout)
	defer timer.Stop()
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-timer.C:
		return nil, die("can't lock file '/var/lock/qemu-server/lock-%d.conf' - got timeout", vmid)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// lockTimeout is how long Proxmox waits for a machine's lock file.
const lockTimeout = 10 * time.Second

// machineDelete is DELETE /nodes/{node}/qemu/{vmid}.
func machineDelete(c *call) (any, error) {
	s, vmid, node := c.server, c.vmid(), c.node
	if c.params["skiplock"] == "1" {
		return nil, paramError("skiplock", "Only root may use this option.")
	}
	early := func() (*machine, error) {
		m, err := s.find(node, vmid)
		if err != nil {
			return nil, err
		}
		if err := m.checkProtection(fmt.Sprintf("can't remove VM %d", vmid)); err != nil {
			return nil, err
		}
		if m.running() {
			return nil, die("VM %d is running - destroy failed", vmid)
		}
		return m, nil
	}
	if _, err := early(); err != nil {
		return nil, err
	}
	purge, unreferenced := c.params["purge"] == "1", c.params["destroy-unreferenced-disks"] == "1"
	return c.fork(job{kind: "qmdestroy", id: strconv.Itoa(vmid), node: node, run: func(ctx context.Context, w *worker) error {
		release, err := s.lockMachine(ctx, vmid)
		if err != nil {
			return err
		}
		defer release()
		s.mu.Lock()
		m, err := early()
		if err == nil {
			err = m.checkLock()
		}
		if err == nil {
			err = s.destroy(m, unreferenced)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		s.options.Guests.Destroy(vmid)
		if purge {
			w.log("purging VM %d from related configurations..", vmid)
		}
		return nil
	}}), nil
}

// destroy removes a machine and its disks. The caller holds the lock.
func (s *Server) destroy(m *machine, unreferenced bool) error {
	referenced := map[string]bool{}
	for _, config := range []map[string]string{m.Config, m.Pending} {
		for _, d := range s.schema.drives(config) {
			referenced[d.file()] = true
		}
		for option, text := range config {
			if strings.HasPrefix(option, "unused") {
				referenced[text] = true
			}
		}
	}
	for _, v := range s.owned(m.Node, m.VMID) {
		if referenced[v.id()] || unreferenced {
			if err := s.free(v); err != nil {
				return err
			}
		}
	}
	delete(s.state.Machines, m.VMID)
	for _, p := range s.state.Pools {
		delete(p.Machines, m.VMID)
	}
	return nil
}

// digest identifies a configuration's content.
func digest(text string) string {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}

// file is the configuration as its file on the node would hold it.
func (m *machine) file() string {
	var b strings.Builder
	if description := m.Config["description"]; description != "" {
		for line := range strings.SplitSeq(description, "\n") {
			fmt.Fprintf(&b, "#%s\n", url.QueryEscape(line))
		}
	}
	for _, option := range sortedKeys(m.Config) {
		if option != "description" {
			fmt.Fprintf(&b, "%s: %s\n", option, m.Config[option])
		}
	}
	if len(m.Pending)+len(m.Delete) > 0 {
		b.WriteString("\n[PENDING]\n")
		if len(m.Delete) > 0 {
			fmt.Fprintf(&b, "delete: %s\n", strings.Join(sortedKeys(m.Delete), ","))
		}
		for _, option := range sortedKeys(m.Pending) {
			fmt.Fprintf(&b, "%s: %s\n", option, m.Pending[option])
		}
	}
	return b.String()
}
