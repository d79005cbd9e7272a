package pve

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Storage is a datastore. It exists on every node with contents of its own.
type Storage struct {
	Name string
	// Type is dir or lvmthin.
	Type string
	// Content lists what may be stored: images, rootdir, vztmpl, iso, backup, snippets, import.
	Content []string
	// Bytes is the total size.
	Bytes int64
	// Path is where a dir storage lies on the node, as the API shows it; default /var/lib/vz.
	Path string
	// VolumeGroup and ThinPool are those of an lvmthin storage; default pve and data.
	VolumeGroup, ThinPool string
}

// DefaultStorages are what the Proxmox installer makes, with room for ISO images on local.
func DefaultStorages() []Storage {
	return []Storage{
		{Name: "local", Type: "dir", Content: []string{"iso", "vztmpl", "backup", "snippets", "import"}, Bytes: 100 << 30},
		{Name: "local-lvm", Type: "lvmthin", Content: []string{"images", "rootdir"}, Bytes: 800 << 30},
	}
}

func (s Storage) validate() error {
	if !storageIDPattern.MatchString(s.Name) {
		return fmt.Errorf("storage %q: the name contains illegal characters", s.Name)
	}
	if s.Type != "dir" && s.Type != "lvmthin" {
		return fmt.Errorf("storage %q: type %q is not simulated: want dir or lvmthin", s.Name, s.Type)
	}
	if s.Bytes <= 0 {
		return fmt.Errorf("storage %q: size %d: want more than 0 bytes", s.Name, s.Bytes)
	}
	for _, content := range s.Content {
		if !contentPattern.MatchString(content) {
			return fmt.Errorf("storage %q: unknown content %q", s.Name, content)
		}
	}
	return nil
}

func (s Storage) isDir() bool { return s.Type == "dir" }

func (s Storage) allows(content string) bool { return slices.Contains(s.Content, content) }

func (s Storage) path() string {
	if s.Path == "" {
		return "/var/lib/vz"
	}
	return s.Path
}

func (s Storage) volumeGroup() string {
	if s.VolumeGroup == "" {
		return "pve"
	}
	return s.VolumeGroup
}

func (s Storage) thinPool() string {
	if s.ThinPool == "" {
		return "data"
	}
	return s.ThinPool
}

// volume is a disk or a file on a storage.
type volume struct {
	Node    string `json:"node"`
	Storage string `json:"storage"`
	Name    string `json:"name"` // below the storage: vm-101-disk-0 or iso/talos.iso
	Content string `json:"content"`
	Format  string `json:"format"`
	Size    int64  `json:"size"`
	VMID    int    `json:"vmid,omitempty"`
	Created int64  `json:"created"`
	// File is the content on this machine; empty for disks.
	File string `json:"file,omitempty"`
}

func (v *volume) id() string { return v.Storage + ":" + v.Name }

func volumeKey(node, id string) string { return node + "/" + id }

// storage finds a storage by name.
func (s *Server) storage(name string) (Storage, error) {
	storage, ok := s.storages[name]
	if !ok {
		return Storage{}, die("storage '%s' does not exist", name)
	}
	return storage, nil
}

// used is how much of a storage is taken on a node. A thin pool holds nothing until guests write, and they report no writes.
func (s *Server) used(node string, storage Storage) int64 {
	if s.state.Full[storage.Name] {
		return storage.Bytes
	}
	if !storage.isDir() {
		return 0
	}
	var used int64
	for _, v := range s.state.Volumes {
		if v.Node == node && v.Storage == storage.Name {
			used += v.Size
		}
	}
	return min(used, storage.Bytes)
}

func (s *Server) storageInfo(node string, storage Storage) map[string]any {
	used := s.used(node, storage)
	return map[string]any{
		"type": storage.Type, "content": strings.Join(storage.Content, ","), "shared": 0, "active": 1, "enabled": 1,
		"total": storage.Bytes, "used": used, "avail": storage.Bytes - used,
	}
}

func storageList(c *call) (any, error) {
	s := c.server
	if name := c.params["storage"]; name != "" {
		if _, ok := s.storages[name]; !ok {
			return nil, paramError("storage", "No such storage.")
		}
	}
	list := []map[string]any{}
	for _, name := range sortedKeys(s.storages) {
		storage := s.storages[name]
		if wanted := c.params["storage"]; wanted != "" && wanted != name || c.params["target"] != "" && c.params["target"] != c.node {
			continue
		}
		if content := splitList(c.params["content"]); len(content) > 0 && !slices.ContainsFunc(content, storage.allows) {
			continue
		}
		if c.requireAny("/storage/"+name, "Datastore.Audit", "Datastore.AllocateSpace") != nil {
			continue
		}
		info := s.storageInfo(c.node, storage)
		info["storage"] = name
		info["used_fraction"] = float64(info["used"].(int64)) / float64(storage.Bytes)
		if c.params["format"] == "1" {
			info["format"] = storageFormats(storage)
		}
		list = append(list, info)
	}
	return list, nil
}

// storageFormats is what ?format=1 adds: the image formats and the default.
func storageFormats(storage Storage) []any {
	if storage.isDir() {
		return []any{map[string]int{"raw": 1, "qcow2": 1, "vmdk": 1, "subvol": 1}, "raw"}
	}
	return []any{map[string]int{"raw": 1}, "raw"}
}

func storageStatus(c *call) (any, error) {
	storage, ok := c.server.storages[c.params["storage"]]
	if !ok {
		return nil, paramError("storage", "No such storage.")
	}
	return c.server.storageInfo(c.node, storage), nil
}

func storageConfig(c *call) (any, error) {
	list := []map[string]any{}
	for _, name := range sortedKeys(c.server.storages) {
		storage := c.server.storages[name]
		if wanted := c.params["type"]; wanted != "" && wanted != storage.Type {
			continue
		}
		if c.requireAny("/storage/"+name, "Datastore.Audit", "Datastore.AllocateSpace") != nil {
			continue
		}
		entry := map[string]any{"storage": name, "type": storage.Type, "content": strings.Join(storage.Content, ","), "digest": digest(storage.Name)}
		if storage.isDir() {
			entry["path"] = storage.path()
		} else {
			entry["vgname"], entry["thinpool"] = storage.volumeGroup(), storage.thinPool()
		}
		list = append(list, entry)
	}
	return list, nil
}

// extent is LVM's allocation unit.
const extent = 4 << 20

// allocate makes a disk and returns its volume ID. The caller holds the lock.
func (s *Server) allocate(node string, storage Storage, vmid int, format, name string, bytes int64) (*volume, error) {
	if format == "" {
		format = "raw"
	}
	if !storage.isDir() {
		if format != "raw" {
			// Perl adds the place to a message without a line break.
			return nil, die("unsupported format '%s' at /usr/share/perl5/PVE/Storage/LvmThinPlugin.pm line 88.", format)
		}
		bytes = (bytes + extent - 1) / extent * extent
	}
	if name == "" {
		free, err := s.freeName(node, storage, vmid, format)
		if err != nil {
			return nil, err
		}
		name = free
	} else if !strings.HasPrefix(name, "vm-"+strconv.Itoa(vmid)+"-") {
		return nil, die("illegal name '%s' - should be 'vm-%d-*'", name, vmid)
	}
	full := name
	if storage.isDir() {
		full = strconv.Itoa(vmid) + "/" + name
	}
	v := &volume{
		Node: node, Storage: storage.Name, Name: full, Content: "images", Format: format, Size: bytes, VMID: vmid,
		Created: s.options.Now().Unix(),
	}
	key := volumeKey(node, v.id())
	if s.state.Volumes[key] != nil {
		return nil, die("disk image '%s' already exists", s.volumePath(v))
	}
	if s.state.Full[storage.Name] {
		if storage.isDir() {
			return nil, die("unable to create image: qemu-img: %s: error while writing: No space left on device", s.volumePath(v))
		}
		vg := storage.volumeGroup()
		return nil, die("lvcreate '%s/%s' error:   Cannot create new thin volume, free space in thin pool %s/%s reached threshold.", vg, name, vg, storage.thinPool())
	}
	s.state.Volumes[key] = v
	s.state.Generations[key]++
	return v, nil
}

func (s *Server) freeName(node string, storage Storage, vmid int, format string) (string, error) {
	for i := range 1024 {
		name := fmt.Sprintf("vm-%d-disk-%d", vmid, i)
		id := storage.Name + ":" + name
		if storage.isDir() {
			name += "." + format
			id = storage.Name + ":" + strconv.Itoa(vmid) + "/" + name
		}
		if s.state.Volumes[volumeKey(node, id)] == nil {
			return name, nil
		}
	}
	return "", die("unable to allocate an image name for VM %d in storage '%s'", vmid, storage.Name)
}

// free removes a volume and its file. The caller holds the lock.
func (s *Server) free(v *volume) error {
	if v.File != "" {
		if err := os.Remove(v.File); err != nil && !os.IsNotExist(err) {
			return die("unlink '%s' failed - %v", s.volumePath(v), err)
		}
	}
	delete(s.state.Volumes, volumeKey(v.Node, v.id()))
	return nil
}

// volumePath is where the API says that a volume lies.
func (s *Server) volumePath(v *volume) string {
	storage := s.storages[v.Storage]
	if !storage.isDir() {
		return "/dev/" + storage.volumeGroup() + "/" + v.Name
	}
	if v.Content == "images" {
		return storage.path() + "/images/" + v.Name
	}
	return storage.path() + "/" + contentDir(v.Content) + "/" + filepath.Base(v.Name)
}

func contentDir(content string) string {
	switch content {
	case "iso":
		return "template/iso"
	case "vztmpl":
		return "template/cache"
	case "backup":
		return "dump"
	}
	return content
}

// hostFile is where the content of a file volume lies on this machine.
func (s *Server) hostFile(node, storage, content, name string) string {
	return filepath.Join(s.options.Dir, node, storage, filepath.FromSlash(contentDir(content)), name)
}
