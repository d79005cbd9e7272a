package pve

import (
	"context"
	"regexp"
	"strconv"
)

var resizePattern = regexp.MustCompile(`^(\+)?(\d+(?:\.\d+)?[KMGT]?)$`)

// diskResize is PUT …/resize.
func diskResize(c *call) (any, error) {
	if err := c.rootOnly("skiplock"); err != nil {
		return nil, err
	}
	s, vmid := c.server, c.vmid()
	return c.fork(job{kind: "resize", id: strconv.Itoa(vmid), node: c.node, run: func(ctx context.Context, _ *worker) error {
		return s.withMachine(ctx, vmid, func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return c.resize(vmid)
		})
	}}), nil
}

// resize does the work of a resize task. The caller holds the locks.
func (c *call) resize(vmid int) error {
	s, option := c.server, c.params["disk"]
	m, err := s.find(c.node, vmid)
	if err != nil {
		return err
	}
	if given := c.params["digest"]; given != "" && given != digest(m.file()) {
		return die("checksum mismatch (file change by other user?)")
	}
	if err := m.checkLock(); err != nil {
		return err
	}
	text := m.Config[option]
	if text == "" {
		return die("disk '%s' does not exist", option)
	}
	d := s.schema.parseDrive(option, text)
	if d == nil {
		return die("disk '%s' has no associated volume", option)
	}
	if d.isCDROM() {
		return die("you can't resize a cdrom")
	}
	v := s.state.Volumes[volumeKey(m.Node, d.file())]
	if v == nil {
		return s.missingVolume(d.file())
	}
	if err := c.require("/storage/"+v.Storage, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	match := resizePattern.FindStringSubmatch(c.params["size"])
	if match == nil {
		return die("internal error at /usr/share/perl5/PVE/API2/Qemu.pm line 5715.")
	}
	bytes, err := parseSize(match[2])
	if err != nil {
		return err
	}
	if match[1] == "+" {
		bytes += v.Size
	}
	if bytes < v.Size {
		return die("shrinking disks is not supported")
	}
	v.Size = bytes
	d.fields["size"] = strconv.FormatInt(bytes, 10)
	m.Config[option] = s.schema.printDrive(d)
	return nil
}
