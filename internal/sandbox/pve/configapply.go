package pve

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// apply writes an update to the pending section and then applies what can be applied now: everything to a stopped machine,
// what can be plugged to a running one. The caller holds the server's and the machine's lock.
func (c *call) apply(m *machine, u *update) (log []string, err error) {
	s := c.server
	if m.Pending == nil {
		m.Pending = map[string]string{}
	}
	if m.Delete == nil {
		m.Delete = map[string]bool{}
	}
	for _, option := range u.revert {
		if text, ok := m.Config[option]; ok {
			u.set[option] = text
		} else if _, ok := m.Pending[option]; ok {
			u.remove = append(u.remove, option)
		}
	}
	order := s.schema.bootOrder(m.Config["boot"])
	for _, option := range u.remove {
		warning, err := c.stageRemoval(m, option, u.force, &order)
		if err != nil {
			return log, err
		}
		if warning != "" {
			log = append(log, warning)
		}
	}
	for _, option := range sortedKeys(u.set) {
		if m.Pending[option] == u.set[option] {
			continue
		}
		if err := c.stage(m, u, option, &order); err != nil {
			return log, err
		}
		delete(m.Delete, option)
	}
	for option, text := range m.Pending {
		if m.Config[option] == text {
			delete(m.Pending, option)
		}
	}
	for option := range m.Delete {
		if _, exists := m.Config[option]; !exists {
			delete(m.Delete, option)
		}
	}
	if m.running() {
		return log, c.plug(m)
	}
	s.applyPending(m)
	return log, nil
}

// requireDrive checks the privilege to change a drive.
func (c *call) requireDrive(vmid int, option, text string) error {
	d := c.server.schema.parseDrive(option, text)
	switch {
	case d == nil:
		return nil
	case d.isCloudInit():
		return c.requireMachine(vmid, "", "VM.Config.Cloudinit", "VM.Config.CDROM")
	case d.isCDROM():
		return c.requireMachine(vmid, "", "VM.Config.CDROM")
	}
	return c.requireMachine(vmid, "", "VM.Config.Disk")
}

// stageRemoval notes the removal of an option.
func (c *call) stageRemoval(m *machine, option string, force bool, order *[]string) (warning string, err error) {
	text, exists := m.Config[option]
	pendingText, pending := m.Pending[option]
	if !exists {
		text = pendingText
	}
	if !exists && !pending {
		return fmt.Sprintf("cannot delete '%s' - not set in current configuration!", option), nil
	}
	delete(m.Pending, option)
	if slices.Contains(*order, option) {
		*order = slices.DeleteFunc(*order, func(device string) bool { return device == option })
		m.Pending["boot"] = bootOption(*order)
	}
	kind := strings.TrimRight(option, "0123456789")
	switch {
	case kind == "unused":
		if err := m.checkProtection(fmt.Sprintf("can't remove unused disk '%s'", text)); err != nil {
			return "", err
		}
		if err := c.requireMachine(m.VMID, "", "VM.Config.Disk"); err != nil {
			return "", err
		}
		if err := c.deallocate(m, text); err != nil {
			return "", err
		}
		delete(m.Config, option)
		return "", nil
	case isDrive(option):
		if err := m.checkProtection(fmt.Sprintf("can't remove drive '%s'", option)); err != nil {
			return "", err
		}
		if err := c.requireDrive(m.VMID, option, text); err != nil {
			return "", err
		}
		if pending {
			c.server.registerUnused(m, c.server.schema.parseDrive(option, pendingText))
		}
	case option == "tags":
		if err := c.requireMachine(m.VMID, "", "VM.Config.Options"); err != nil {
			return "", err
		}
		delete(m.Config, option)
		return "", nil
	case kind == "net":
		if err := c.bridgeAccess(map[string]string{option: text}); err != nil {
			return "", err
		}
	default:
		if err := c.requireDevice(m.VMID, "", option, text); err != nil {
			return "", err
		}
	}
	m.Delete[option] = force
	return "", nil
}

// stage notes a new value.
func (c *call) stage(m *machine, u *update, option string, order *[]string) error {
	text := u.set[option]
	switch {
	case isDrive(option):
		return c.stageDrive(m, option, text, order)
	case option == "tags":
		if err := c.requireMachine(m.VMID, "", "VM.Config.Options"); err != nil {
			return err
		}
		text = uniqueTags(text)
	case isNet(option):
		if old := m.Config[option]; old != "" {
			if err := c.bridgeAccess(map[string]string{option: old}); err != nil {
				return err
			}
		}
	case option == "boot":
		devices := c.server.schema.bootOrder(text)
		for _, device := range devices {
			exists := m.Config[device] != "" || m.Pending[device] != "" || u.set[device] != ""
			if !exists || slices.Contains(u.remove, device) {
				return die("invalid bootorder: device '%s' does not exist'", device)
			}
		}
		if len(devices) > 0 {
			text = bootOption(devices)
			if m.Config["bootdisk"] != "" {
				m.Delete["bootdisk"] = false
			}
		}
	default:
		if old := m.Config[option]; old != "" {
			if err := c.requireDevice(m.VMID, "", option, old); err != nil {
				return err
			}
		}
		if err := c.requireDevice(m.VMID, "", option, text); err != nil {
			return err
		}
	}
	m.Pending[option] = text
	return nil
}

func (c *call) stageDrive(m *machine, option, text string, order *[]string) error {
	s := c.server
	if old := m.Config[option]; old != "" {
		if err := c.requireDrive(m.VMID, option, old); err != nil {
			return err
		}
		if option == "tpmstate0" && c.changesTPMVersion(old, text) {
			return die("cannot change TPM state version after creation")
		}
	}
	if err := c.requireDrive(m.VMID, option, text); err != nil {
		return err
	}
	if pending := m.Pending[option]; pending != "" {
		s.registerUnused(m, s.schema.parseDrive(option, pending))
	}
	disks, err := s.createDisks(m.Node, m.VMID, map[string]string{option: text}, "")
	if err != nil {
		return err
	}
	m.Pending[option] = disks.options[option]
	d := s.schema.parseDrive(option, text)
	if len(*order) > 0 && d.isCDROM() && !slices.Contains(*order, option) {
		*order = append(*order, option)
		m.Pending["boot"] = bootOption(*order)
	}
	return nil
}

func (c *call) changesTPMVersion(old, text string) bool {
	before, after := c.server.schema.parseDrive("tpmstate0", old), c.server.schema.parseDrive("tpmstate0", text)
	if before == nil || after == nil || before.file() != after.file() {
		return false
	}
	return firstOf(before.fields["version"], "v1.2") != firstOf(after.fields["version"], "v1.2")
}

// uniqueTags is the datacenter's default style: lower case, sorted, no duplicates.
func uniqueTags(text string) string {
	tags := splitList(strings.ToLower(text))
	slices.Sort(tags)
	return strings.Join(slices.Compact(tags), ";")
}

// deallocate frees a volume that the machine owns.
func (c *call) deallocate(m *machine, id string) error {
	v := c.server.state.Volumes[volumeKey(m.Node, id)]
	if v == nil || v.VMID != m.VMID {
		return nil
	}
	if err := c.require("/storage/"+v.Storage, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	return c.server.free(v)
}

// registerUnused keeps a disk that is no longer attached as unusedN.
func (s *Server) registerUnused(m *machine, d *drive) {
	if d == nil || d.isCDROM() {
		return
	}
	v := s.state.Volumes[volumeKey(m.Node, d.file())]
	if v == nil || v.VMID != m.VMID {
		return
	}
	for i := range deviceLimit("unused") {
		option := "unused" + strconv.Itoa(i)
		switch m.Config[option] {
		case d.file():
			return
		case "":
			m.Config[option] = d.file()
			return
		}
	}
}

// detach takes a drive off: its volume is freed with force, else it becomes unused.
func (s *Server) detach(m *machine, option string, force bool) {
	d := s.schema.parseDrive(option, m.Config[option])
	delete(m.Config, option)
	if d == nil {
		return
	}
	v := s.state.Volumes[volumeKey(m.Node, d.file())]
	if force && v != nil && !d.isCDROM() && v.VMID == m.VMID {
		_ = s.free(v) // a disk has no file that could fail to go
		return
	}
	s.registerUnused(m, d)
}

// applyPending applies all pending changes to a stopped machine. The caller holds the lock.
func (s *Server) applyPending(m *machine) {
	for _, option := range sortedKeys(m.Delete) {
		if isDrive(option) {
			s.detach(m, option, m.Delete[option])
		}
		delete(m.Config, option)
		delete(m.Delete, option)
	}
	for _, option := range sortedKeys(m.Pending) {
		if isDrive(option) {
			s.replaceDrive(m, option, m.Pending[option])
		}
		m.Config[option] = m.Pending[option]
		delete(m.Pending, option)
	}
}

// replaceDrive keeps the disk that a new value of a drive replaces.
func (s *Server) replaceDrive(m *machine, option, text string) {
	old, replacement := s.schema.parseDrive(option, m.Config[option]), s.schema.parseDrive(option, text)
	if old != nil && replacement != nil && old.file() != replacement.file() {
		s.registerUnused(m, old)
	}
}
