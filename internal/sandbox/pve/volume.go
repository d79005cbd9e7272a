package pve

import (
	"context"
	"regexp"
	"strconv"
	"strings"
)

// The names a volume may have, by kind of storage. The first group is the name below the content folder.
var (
	imageNamePattern    = regexp.MustCompile(`^(\d+)/(\S+\.(raw|qcow2|vmdk|subvol))$`)
	isoNamePattern      = regexp.MustCompile(`^iso/([^/]+\.(?i:iso|img))$`)
	templateNamePattern = regexp.MustCompile(`^vztmpl/([^/]+\.(?i:tar\.(?:gz|xz|zst|bz2)))$`)
	backupNamePattern   = regexp.MustCompile(`^backup/([^/]+\.(?:tgz|(?:tar|vma)(?:\.(?:gz|lzo|zst|bz2))?))$`)
	snippetNamePattern  = regexp.MustCompile(`^snippets/([^/]+)$`)
	importNamePattern   = regexp.MustCompile(`^import/([a-zA-Z0-9\-.+=_ ]+\.(ova|ovf|qcow2|raw|vmdk))$`)
	lvmNamePattern      = regexp.MustCompile(`^(?:vm|base)-(\d+)-\S+$`)
)

// volumeName is what a volume's name says about it.
type volumeName struct {
	storage Storage
	content string
	owner   int // VM ID, 0 without one
	format  string
}

// parseVolume reads a volume ID. ok is false for what is not one, such as a path.
func (s *Server) parseVolume(id string) (name volumeName, ok bool, err error) {
	match := volumePattern.FindStringSubmatch(id)
	if match == nil {
		return volumeName{}, false, nil
	}
	storage, err := s.storage(match[1])
	if err != nil {
		return volumeName{}, true, err
	}
	rest := match[2]
	name = volumeName{storage: storage, format: "raw"}
	if !storage.isDir() {
		lvm := lvmNamePattern.FindStringSubmatch(rest)
		if lvm == nil {
			return name, true, die("unable to parse lvm volume name '%s'", rest)
		}
		name.content, name.owner = "images", atoi(lvm[1])
		return name, true, nil
	}
	switch {
	case imageNamePattern.MatchString(rest):
		image := imageNamePattern.FindStringSubmatch(rest)
		name.content, name.owner, name.format = "images", atoi(image[1]), image[3]
	case isoNamePattern.MatchString(rest):
		name.content = "iso"
	case templateNamePattern.MatchString(rest):
		name.content = "vztmpl"
	case backupNamePattern.MatchString(rest):
		name.content = "backup"
	case snippetNamePattern.MatchString(rest):
		name.content = "snippets"
	case importNamePattern.MatchString(rest):
		name.content, name.format = "import", importNamePattern.FindStringSubmatch(rest)[2]
	default:
		return name, true, die("unable to parse directory volume name '%s'", rest)
	}
	return name, true, nil
}

func atoi(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// volumeAccess checks that the caller may use a volume, for machine vmid (0 for none).
func (c *call) volumeAccess(vmid int, id string) error {
	name, ok, err := c.server.parseVolume(id)
	if err != nil {
		return err
	}
	if !ok {
		return die("Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 569.")
	}
	path := "/storage/" + name.storage.Name
	if c.may(path, "Datastore.Allocate") {
		return nil
	}
	owner := "/vms/" + strconv.Itoa(name.owner)
	switch {
	case name.content == "iso" || name.content == "vztmpl" || name.content == "import":
		return c.requireAny(path, "Datastore.AllocateSpace", "Datastore.Audit")
	case name.owner != 0 && name.owner == vmid:
		return nil
	case name.content == "backup" && name.owner != 0:
		if err := c.require(path, "Datastore.AllocateSpace"); err != nil {
			return err
		}
		return c.require(owner, "VM.Backup")
	case name.content == "images" && name.owner != 0:
		if err := c.require(path, "Datastore.Audit"); err != nil {
			return err
		}
		return c.require(owner, "VM.Config.Disk")
	}
	return die("missing privileges to access %s", id)
}

func contentList(c *call) (any, error) {
	s := c.server
	storage, err := s.storage(c.params["storage"])
	if err != nil {
		return nil, err
	}
	list := []map[string]any{}
	for _, key := range sortedKeys(s.state.Volumes) {
		v := s.state.Volumes[key]
		if v.Node != c.node || v.Storage != storage.Name || !storage.allows(v.Content) {
			continue
		}
		if content := c.params["content"]; content != "" && content != v.Content {
			continue
		}
		if c.params["vmid"] != "" && v.VMID != c.vmid() || c.volumeAccess(0, v.id()) != nil {
			continue
		}
		item := map[string]any{"volid": v.id(), "content": v.Content, "format": v.Format, "size": v.Size, "ctime": v.Created}
		if v.Content == "iso" {
			item["format"] = "iso"
		}
		if v.VMID != 0 {
			item["vmid"] = v.VMID
		}
		list = append(list, item)
	}
	return list, nil
}

// volumeID completes the volume of a call, which may lack its storage.
func (c *call) volumeID() (string, error) {
	name, storage := c.params["volume"], c.params["storage"]
	if !strings.Contains(name, ":") {
		return storage + ":" + name, nil
	}
	match := volumePattern.FindStringSubmatch(name)
	if match == nil {
		return "", paramError("volume", "unable to parse volume ID '%s'\n", name)
	}
	if match[1] != storage {
		return "", paramError("volume", "storage ID mismatch (%s != %s)\n", match[1], storage)
	}
	return name, nil
}

func contentRead(c *call) (any, error) {
	id, err := c.volumeID()
	if err != nil {
		return nil, err
	}
	if err := c.volumeAccess(0, id); err != nil {
		return nil, err
	}
	v := c.server.state.Volumes[volumeKey(c.node, id)]
	if v == nil {
		name, _, err := c.server.parseVolume(id)
		if err != nil {
			return nil, err
		}
		if !name.storage.isDir() {
			path := "/dev/" + name.storage.volumeGroup() + "/" + strings.TrimPrefix(id, name.storage.Name+":")
			return nil, die("can't get size of '%s':   Failed to find logical volume \"%s\"", path, strings.TrimPrefix(path, "/dev/"))
		}
		return nil, die("volume_size_info on '%s' failed - no format", id)
	}
	used := int64(0)
	if v.File != "" {
		used = v.Size
	}
	return map[string]any{"path": c.server.volumePath(v), "size": v.Size, "used": used, "format": v.Format}, nil
}

func contentDelete(c *call) (any, error) {
	s := c.server
	id, err := c.volumeID()
	if err != nil {
		return nil, err
	}
	name, _, err := s.parseVolume(id)
	if err != nil {
		return nil, err
	}
	path := "/storage/" + name.storage.Name
	if name.content == "backup" && name.owner != 0 {
		if err := c.require(path, "Datastore.AllocateSpace"); err != nil {
			return nil, err
		}
		if err := c.require("/vms/"+strconv.Itoa(name.owner), "VM.Backup"); err != nil {
			return nil, err
		}
	} else if err := c.require(path, "Datastore.Allocate"); err != nil {
		return nil, err
	}
	owner := name.storage.Name
	if name.owner != 0 {
		owner = strconv.Itoa(name.owner) + "@" + owner
	}
	node := c.node
	return c.fork(job{kind: "imgdel", id: owner, node: node, run: func(_ context.Context, w *worker) error {
		s.mu.Lock()
		v := s.state.Volumes[volumeKey(node, id)]
		var err error
		if v != nil {
			err = s.free(v)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if v == nil && name.storage.isDir() {
			w.log("disk image '%s' does not exist", id)
		}
		w.log("Removed volume '%s'", id)
		return nil
	}}), nil
}

func contentCreate(c *call) (any, error) {
	storage, err := c.server.storage(c.params["storage"])
	if err != nil {
		return nil, err
	}
	text := c.params["size"]
	unit := int64(1024)
	switch {
	case strings.HasSuffix(text, "M"):
		unit <<= 10
	case strings.HasSuffix(text, "G"):
		unit <<= 20
	}
	amount, err := strconv.ParseInt(strings.TrimRight(text, "MG"), 10, 64)
	if err != nil || amount > 1<<40 {
		return nil, paramError("size", "unable to parse size '%s'", text)
	}
	format, filename := c.params["format"], c.params["filename"]
	for _, suffix := range []string{"raw", "qcow2", "vmdk"} {
		if !strings.HasSuffix(filename, "."+suffix) {
			continue
		}
		if format != "" && format != suffix {
			return nil, paramError("format", "different storage formats (%s != %s)", format, suffix)
		}
		format = suffix
	}
	v, err := c.server.allocate(c.node, storage, c.vmid(), format, filename, amount*unit)
	if err != nil {
		return nil, err
	}
	return v.id(), nil
}
