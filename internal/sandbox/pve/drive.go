package pve

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// newDiskPattern is a volume to be allocated: storage:gibibytes.
var newDiskPattern = regexp.MustCompile(`^(?:([^/:\s]+):)?(\d+(?:\.\d+)?)$`)

// drive is a parsed drive option. The volume is in fields["file"].
type drive struct {
	option string
	fields map[string]string
}

func (d drive) file() string { return d.fields["file"] }

func (d drive) isCDROM() bool { return d.fields["media"] == "cdrom" }

func (d drive) isCloudInit() bool { return d.isCDROM() && strings.Contains(d.file(), "cloudinit") }

// newDisk returns the storage and size of a volume to be allocated.
func (d drive) newDisk() (storage, size string, ok bool) {
	match := newDiskPattern.FindStringSubmatch(d.file())
	if match == nil {
		return "", "", false
	}
	return match[1], match[2], true
}

// parseDrive reads a drive option; nil means that it makes no sense.
func (s *schema) parseDrive(option, text string) *drive {
	p := s.config[option]
	if p == nil || !isDrive(option) {
		return nil
	}
	values, err := s.parseProperties(p.Format.fields, text, "")
	if err != nil || !plausible(option, values) {
		return nil
	}
	if size, ok := values["size"]; ok {
		bytes, err := parseSize(size)
		if err != nil {
			return nil
		}
		values["size"] = strconv.FormatInt(bytes, 10)
	}
	return &drive{option: option, fields: values}
}

func plausible(option string, values map[string]string) bool {
	for _, suffix := range []string{"", "_rd", "_wr"} {
		if bps, ok := values["bps"+suffix]; ok {
			if _, both := values["mbps"+suffix]; both {
				return false
			}
			amount, err := strconv.ParseFloat(bps, 64)
			if err != nil {
				return false
			}
			delete(values, "bps"+suffix)
			values["mbps"+suffix] = strconv.FormatFloat(amount/(1<<20), 'f', 3, 64)
		}
	}
	for _, pair := range [][2]string{
		{"mbps_max", "mbps"},
		{"mbps_rd_max", "mbps_rd"},
		{"mbps_wr_max", "mbps_wr"},
		{"bps_max_length", "mbps_max"},
		{"bps_rd_max_length", "mbps_rd_max"},
		{"bps_wr_max_length", "mbps_wr_max"},
		{"iops_max_length", "iops_max"},
		{"iops_rd_max_length", "iops_rd_max"},
		{"iops_wr_max_length", "iops_wr_max"},
	} {
		if set(values, pair[0]) && !set(values, pair[1]) {
			return false
		}
	}
	if set(values, "mbps") && (set(values, "mbps_rd") || set(values, "mbps_wr")) ||
		set(values, "iops") && (set(values, "iops_rd") || set(values, "iops_wr")) {
		return false
	}
	if values["media"] != "cdrom" {
		return true
	}
	for _, name := range []string{"snapshot", "trans", "format", "heads", "secs", "cyls"} {
		if set(values, name) {
			return false
		}
	}
	return !strings.HasPrefix(option, "virtio")
}

// set is Perl's truth of a value.
func set(values map[string]string, name string) bool {
	return values[name] != "" && values[name] != "0"
}

func (s *schema) printDrive(d *drive) string {
	return printProperties(s.config[d.option].Format.fields, d.fields)
}

// drives returns the drives of a configuration, by option name.
func (s *schema) drives(config map[string]string) []*drive {
	var list []*drive
	for _, option := range sortedKeys(config) {
		if d := s.parseDrive(option, config[option]); d != nil {
			list = append(list, d)
		}
	}
	return list
}

// resolveCDROM replaces the alias cdrom by ide2.
func resolveCDROM(params map[string]string) {
	text, ok := params["cdrom"]
	if !ok {
		return
	}
	if !strings.Contains(text, "media=") {
		text += ",media=cdrom"
	}
	delete(params, "cdrom")
	params["ide2"] = text
}

// checkDrives checks and normalises the drives in params.
func (c *call) checkDrives(params map[string]string) error {
	s := c.server
	for _, option := range sortedKeys(params) {
		if !isDrive(option) {
			continue
		}
		d := s.schema.parseDrive(option, params[option])
		if d == nil {
			return paramError(option, "unable to parse drive options")
		}
		if d.fields["import-from"] != "" {
			if _, size, ok := d.newDisk(); !ok || size != "0" {
				return paramError(option, "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>")
			}
			return &apiError{status: 501, message: "import-from is not simulated"}
		}
		if _, _, isNew := d.newDisk(); !isNew {
			name, ok, err := s.parseVolume(d.file())
			if err != nil && !strings.HasSuffix(d.file(), ":cloudinit") {
				return err
			}
			if ok && name.content == "iso" && !d.isCDROM() {
				return paramError(option, "explicit 'media=cdrom' is required for iso images")
			}
		}
		if file := d.file(); d.fields["media"] == "" && (file == "none" || file == "cdrom") {
			d.fields["media"] = "cdrom"
		}
		params[option] = s.schema.printDrive(d)
	}
	return nil
}

// checkDriveAccess checks that the caller may use the volumes in params.
func (c *call) checkDriveAccess(vmid int, params map[string]string, defaultStorage string) error {
	s := c.server
	for _, d := range s.schema.drives(params) {
		file := d.file()
		storage, _, isNew := d.newDisk()
		switch {
		case file == "none" || strings.HasSuffix(file, ":cloudinit"):
		case d.isCDROM() && file == "cdrom":
			if err := c.require("/", "Sys.Console"); err != nil {
				return err
			}
		case !d.isCDROM() && isNew:
			if storage == "" {
				storage = defaultStorage
			}
			if storage == "" {
				return die("no storage ID specified (and no default storage)")
			}
			if err := c.require("/storage/"+storage, "Datastore.AllocateSpace"); err != nil {
				return err
			}
			found, err := s.storage(storage)
			if err != nil {
				return err
			}
			if !found.allows("images") {
				return paramError("storage", "storage '%s' does not support vm images", storage)
			}
		default:
			if err := c.volumeAccess(vmid, file); err != nil {
				return err
			}
			if name, ok, err := s.parseVolume(file); ok && err == nil && name.content != "images" && name.content != "iso" {
				return paramError(d.option, "content type needs to be 'images' or 'iso'")
			}
		}
	}
	if storage := params["vmstatestorage"]; storage != "" {
		return c.require("/storage/"+storage, "Datastore.AllocateSpace")
	}
	return nil
}

// created are the results of createDisks.
type created struct {
	options map[string]string
	volumes []*volume
	log     []string
}

// createDisks allocates new volumes and fills in the sizes of existing ones. On an error nothing stays allocated. The caller
// holds the lock.
func (s *Server) createDisks(node string, vmid int, params map[string]string, defaultStorage string) (created, error) {
	result := created{options: map[string]string{}}
	for _, d := range s.schema.drives(params) {
		if err := s.createDisk(node, vmid, d, defaultStorage, &result); err != nil {
			for _, v := range result.volumes {
				_ = s.free(v)
			}
			return created{}, err
		}
		result.options[d.option] = s.schema.printDrive(d)
		if _, _, isNew := s.schema.parseDrive(d.option, params[d.option]).newDisk(); isNew {
			result.log = append(result.log, d.option+": successfully created disk '"+result.options[d.option]+"'")
		}
	}
	return result, nil
}

func (s *Server) createDisk(node string, vmid int, d *drive, defaultStorage string, result *created) error {
	file := d.file()
	storageName, size, isNew := d.newDisk()
	switch {
	case file == "none" || file == "cdrom":
		delete(d.fields, "size")
		return nil
	case strings.HasSuffix(file, ":cloudinit") || file == "cloudinit":
		return die("%s: cloud-init drives are not simulated", d.option)
	case !isNew:
		return s.attach(node, d)
	}
	if storageName == "" {
		storageName = defaultStorage
	}
	storage, err := s.storage(storageName)
	if err != nil {
		return err
	}
	gibibytes, err := strconv.ParseFloat(size, 64)
	if err != nil || gibibytes > 1<<20 {
		return die("value '%s' is not a valid, positive number", size)
	}
	bytes := int64(gibibytes*(1<<20)) << 10
	exact := true
	format := d.fields["format"]
	switch d.option {
	case "efidisk0":
		bytes, exact = efiVariablesSize(d.fields["efitype"]), false
	case "tpmstate0":
		bytes, format = 4<<20, "raw"
	}
	v, err := s.allocate(node, storage, vmid, format, "", bytes)
	if err != nil {
		return err
	}
	result.volumes = append(result.volumes, v)
	if !exact {
		bytes = v.Size
	}
	d.fields["file"], d.fields["size"] = v.id(), strconv.FormatInt(bytes, 10)
	delete(d.fields, "format")
	return nil
}

// efiVariablesSize is the size of OVMF's template for the variable store.
func efiVariablesSize(efiType string) int64 {
	if efiType == "4m" {
		return 528 << 10
	}
	return 128 << 10
}

// attach checks an existing volume and notes its size.
func (s *Server) attach(node string, d *drive) error {
	name, ok, err := s.parseVolume(d.file())
	if err != nil {
		return err
	}
	if !ok {
		return die("volume %s does not exist", d.file())
	}
	if name.content != "images" && name.content != "iso" {
		return die("cannot use volume %s - content type needs to be 'images' or 'iso' at /usr/share/perl5/PVE/API2/Qemu.pm line 646.", d.file())
	}
	v := s.state.Volumes[volumeKey(node, d.file())]
	if v == nil {
		return die("volume %s does not exist", d.file())
	}
	if format := d.fields["format"]; format != "" && format != v.Format {
		return die("drive '%s' - volume '%s' - 'format=%s' option different from storage format '%s'", d.option, d.file(), format, v.Format)
	}
	if d.option == "tpmstate0" && v.Format != "raw" {
		return die("tpmstate0: volume format is '%s', only 'raw' is supported!", v.Format)
	}
	d.fields["size"] = strconv.FormatInt(v.Size, 10)
	return nil
}

// firstBootDevice finds the first disk or CD-ROM in Proxmox's order.
func (s *schema) firstBootDevice(config map[string]string, cdrom bool) string {
	order := []string{"ide", "scsi", "virtio", "sata"}
	for _, kind := range order {
		for i := range deviceLimit(kind) {
			option := kind + strconv.Itoa(i)
			if d := s.parseDrive(option, config[option]); config[option] != "" && d != nil && d.isCDROM() == cdrom {
				return option
			}
		}
	}
	return ""
}

// defaultBoot is the boot option of a machine that was created without one.
func (s *schema) defaultBoot(config map[string]string) string {
	devices := []string{s.firstBootDevice(config, false), s.firstBootDevice(config, true)}
	for _, option := range sortedKeys(config) {
		if strings.HasPrefix(option, "net") && bootDevPattern.MatchString(option) {
			devices = append(devices, option)
			break
		}
	}
	devices = slices.DeleteFunc(devices, func(device string) bool { return device == "" })
	return bootOption(devices)
}

func bootOption(devices []string) string {
	if len(devices) == 0 {
		return ""
	}
	return "order=" + strings.Join(devices, ";")
}

// bootOrder returns the devices of a boot option's order.
func (s *schema) bootOrder(text string) []string {
	values, err := s.parseProperties(s.formats["pve-qm-boot"], text, "")
	if err != nil {
		return nil
	}
	return splitList(values["order"])
}

// owned finds the disks on a node that belong to a machine.
func (s *Server) owned(node string, vmid int) []*volume {
	var list []*volume
	for _, key := range slices.Sorted(maps.Keys(s.state.Volumes)) {
		if v := s.state.Volumes[key]; v.Node == node && v.VMID == vmid && v.Content == "images" {
			list = append(list, v)
		}
	}
	return list
}
