package pve

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// configJSON gives a configuration the types the API uses: numbers for booleans and integers, text for the rest.
func (s *schema) configJSON(config map[string]string) map[string]any {
	result := make(map[string]any, len(config))
	for option, text := range config {
		result[option] = s.typed(option, text)
	}
	return result
}

func (s *schema) typed(option, text string) any {
	if p := s.config[option]; p != nil && (p.Type == "boolean" || p.Type == "integer") {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	}
	if option == "cipassword" {
		return "**********"
	}
	return text
}

// configRead is GET …/config: the pending values, or the running machine's with current=1.
func configRead(c *call) (any, error) {
	m, err := c.server.find(c.node, c.vmid())
	if err != nil {
		return nil, err
	}
	if snapshot := c.params["snapshot"]; snapshot != "" {
		if c.params["current"] == "1" {
			text := "cannot use 'snapshot' parameter with 'current'"
			return nil, paramErrors(map[string]string{"snapshot": text, "current": text})
		}
		return nil, die("snapshot '%s' does not exist", snapshot)
	}
	config := maps.Clone(m.Config)
	if c.params["current"] != "1" {
		maps.Copy(config, m.Pending)
		for option := range m.Delete {
			delete(config, option)
		}
	}
	result := c.server.schema.configJSON(config)
	result["digest"] = digest(m.file())
	return result, nil
}

// pendingRead is GET …/pending.
func pendingRead(c *call) (any, error) {
	m, err := c.server.find(c.node, c.vmid())
	if err != nil {
		return nil, err
	}
	list := []map[string]any{{"key": "digest", "value": digest(m.file())}}
	s := c.server.schema
	for _, option := range sortedKeys(m.Config) {
		item := map[string]any{"key": option, "value": s.typed(option, m.Config[option])}
		if text, ok := m.Pending[option]; ok {
			item["pending"] = s.typed(option, text)
		}
		if force, ok := m.Delete[option]; ok {
			item["delete"] = 1 + truth(force)
		}
		list = append(list, item)
	}
	for _, option := range sortedKeys(m.Pending) {
		if _, exists := m.Config[option]; !exists {
			list = append(list, map[string]any{"key": option, "pending": s.typed(option, m.Pending[option])})
		}
	}
	return list, nil
}

// update is a change of a machine's configuration.
type update struct {
	vmid   int
	set    map[string]string
	remove []string
	revert []string
	force  bool
	digest string
}

// readUpdate checks what can be checked before the configuration is looked at.
func (c *call) readUpdate() (*update, error) {
	u := &update{vmid: c.vmid(), set: maps.Clone(c.params), force: c.params["force"] == "1", digest: c.params["digest"]}
	if c.params["skiplock"] == "1" {
		return nil, paramError("skiplock", "Only root may use this option.")
	}
	for _, name := range []string{"node", "vmid", "digest", "background_delay", "skip_cloud_init", "import-working-storage", "skiplock", "delete", "revert", "force"} {
		delete(u.set, name)
	}
	if len(u.set) == 0 && c.params["delete"] == "" && c.params["revert"] == "" {
		return nil, die("no options specified")
	}
	clampCPUUnits(u.set)
	resolveCDROM(u.set)
	if err := c.readRemovals(u); err != nil {
		return nil, err
	}
	if err := c.checkDrives(u.set); err != nil {
		return nil, err
	}
	for option, text := range u.set {
		if isNet(option) {
			u.set[option] = c.server.schema.normalNet(text)
		}
		if option == "vmgenid" && text == "1" {
			u.set[option] = newUUID()
		}
	}
	if err := c.requireOptions(u.vmid, "", u.remove); err != nil {
		return nil, err
	}
	if err := c.requireOptions(u.vmid, "", sortedKeys(u.set)); err != nil {
		return nil, err
	}
	if err := c.checkDriveAccess(u.vmid, u.set, ""); err != nil {
		return nil, err
	}
	return u, c.bridgeAccess(u.set)
}

func (c *call) readRemovals(u *update) error {
	exists := func(option string) bool {
		_, known := c.server.schema.config[option]
		return known || option == "lock" || option == "meta" || option == "vmstate"
	}
	for _, option := range splitList(c.params["revert"]) {
		if !exists(option) {
			return paramError("revert", "unknown option '%s'", option)
		}
		if _, both := u.set[option]; both {
			return paramError("delete", "you can't use '-%s' and -revert %s' at the same time", option, option)
		}
		u.revert = append(u.revert, option)
	}
	for _, option := range splitList(c.params["delete"]) {
		if option == "cdrom" {
			option = "ide2"
		}
		if _, both := u.set[option]; both {
			return paramError("delete", "you can't use '-%s' and -delete %s' at the same time", option, option)
		}
		if slices.Contains(u.revert, option) {
			return paramError("revert", "you can't use '-delete %s' and -revert %s' at the same time", option, option)
		}
		if !exists(option) {
			return paramError("delete", "unknown option '%s'", option)
		}
		u.remove = append(u.remove, option)
	}
	return nil
}

// configUpdate is PUT …/config.
func configUpdate(c *call) (any, error) {
	u, err := c.readUpdate()
	if err != nil {
		return nil, err
	}
	var release func()
	err = c.unlocked(func() error {
		release, err = c.server.lockMachine(c.ctx, u.vmid)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer release()
	m, err := c.checkUpdate(u)
	if err != nil {
		return nil, err
	}
	_, err = c.apply(m, u)
	return nil, err
}

// configUpdateTask is POST …/config, the same in a task.
func configUpdateTask(c *call) (any, error) {
	u, err := c.readUpdate()
	if err != nil {
		return nil, err
	}
	if _, err := c.checkUpdate(u); err != nil {
		return nil, err
	}
	return c.fork(job{kind: "qmconfig", id: strconv.Itoa(u.vmid), node: c.node, run: func(ctx context.Context, w *worker) error {
		release, err := c.server.lockMachine(ctx, u.vmid)
		if err != nil {
			return err
		}
		defer release()
		c.server.mu.Lock()
		m, err := c.checkUpdate(u)
		var log []string
		if err == nil {
			log, err = c.apply(m, u)
		}
		c.server.mu.Unlock()
		for _, line := range log {
			w.log("%s", line)
		}
		return err
	}}), nil
}

// checkUpdate checks an update against the configuration as it is.
func (c *call) checkUpdate(u *update) (*machine, error) {
	m, err := c.server.find(c.node, u.vmid)
	if err != nil {
		return nil, err
	}
	if u.digest != "" && u.digest != digest(m.file()) {
		return nil, die("checksum mismatch (file change by other user?)")
	}
	if err := m.checkLock(); err != nil {
		return nil, err
	}
	if text, given := u.set["balloon"]; given || u.set["memory"] != "" {
		memory := m.memory(u.set["memory"], m.Pending["memory"], m.Config["memory"])
		if !given {
			text = firstOf(m.Pending["balloon"], m.Config["balloon"])
		}
		if balloon, err := strconv.Atoi(text); err == nil && balloon > memory {
			return nil, die("balloon value too large (must be smaller than assigned memory)")
		}
	}
	return m, nil
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// memory returns MiB from the first memory option that is set.
func (m *machine) memory(options ...string) int {
	text := strings.TrimPrefix(firstOf(options...), "current=")
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return 512
}
