package pve

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// parseProperties reads a property string such as "virtio=BC:24:11:00:00:01,bridge=vmbr0" by its fields.
// path names the option in error messages.
func (s *schema) parseProperties(f fields, text, path string) (map[string]string, error) {
	result := map[string]string{}
	defaultSeen := ""
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		key, value, assigned := strings.Cut(part, "=")
		switch {
		case assigned && key != "" && value != "":
			if err := setProperty(f, result, key, value); err != nil {
				return nil, err
			}
		case !assigned:
			if defaultSeen != "" {
				return nil, fmt.Errorf("duplicate key in comma-separated list property: %s", defaultSeen)
			}
			defaultSeen = f.defaultKey()
			if defaultSeen == "" {
				return nil, fmt.Errorf("value without key, but schema does not define a default key")
			}
			if result[defaultSeen] != "" {
				return nil, fmt.Errorf("duplicate key in comma-separated list property: %s", defaultSeen)
			}
			result[defaultSeen] = part
		default:
			return nil, fmt.Errorf("missing key in comma-separated list property")
		}
	}
	errs := map[string]string{}
	values := make(map[string]value, len(result))
	for key, text := range result {
		values[key] = value{text: text}
	}
	s.checkObject(f, values, path, errs)
	if len(errs) > 0 {
		return nil, &propertyError{errs}
	}
	return result, nil
}

// propertyError lists the defects of a property string.
type propertyError struct{ fields map[string]string }

func (e *propertyError) Error() string {
	var b strings.Builder
	b.WriteString("format error\n")
	for _, key := range sortedKeys(e.fields) {
		fmt.Fprintf(&b, "%s: %s\n", key, e.fields[key])
	}
	return b.String()
}

func setProperty(f fields, result map[string]string, key, text string) error {
	if _, exists := result[key]; exists {
		return fmt.Errorf("duplicate key in comma-separated list property: %s", key)
	}
	p := f[key]
	if p != nil && p.Alias != "" {
		if p.KeyAlias != "" {
			if _, exists := result[p.KeyAlias]; exists {
				return fmt.Errorf("key alias '%s' is already defined", p.KeyAlias)
			}
			result[p.KeyAlias] = key
		}
		key = p.Alias
		p = f[key]
	}
	if p == nil {
		return fmt.Errorf("invalid key in comma-separated list property: %s", key)
	}
	if p.Type == "boolean" {
		text = normalBoolean(text)
	}
	result[key] = text
	return nil
}

// normalBoolean turns the spellings a property string may use into 1 or 0 and leaves the rest alone.
func normalBoolean(text string) string {
	switch strings.ToLower(text) {
	case "1", "on", "yes", "true":
		return "1"
	case "0", "off", "no", "false":
		return "0"
	}
	return text
}

func (f fields) defaultKey() string {
	for _, name := range sortedKeys(f) {
		if f[name].DefaultKey {
			return name
		}
	}
	return ""
}

// printProperties writes a property string as Proxmox stores it: the default key's value first, without its name, then
// required fields, then the rest by name. A model and its address share one item.
func printProperties(f fields, data map[string]string) string {
	combined := map[string]string{}
	for _, p := range f {
		if p.KeyAlias != "" {
			combined[p.KeyAlias] = p.Alias
		}
	}
	var items []string
	done := map[string]bool{}
	add := func(key string, first bool) {
		text, ok := data[key]
		if !ok || done[key] {
			return
		}
		done[key] = true
		if f[key] != nil && f[key].Format.name == "disk-size" {
			if bytes, err := parseSize(text); err == nil {
				text = formatSize(bytes)
			}
		}
		if other := combined[key]; other != "" && data[other] != "" {
			done[other] = true
			items = append(items, text+"="+data[other])
			return
		}
		if first {
			items = append(items, text)
		} else {
			items = append(items, key+"="+text)
		}
	}
	if key := f.defaultKey(); key != "" {
		add(key, true)
	}
	keys := sortedKeys(data)
	for _, key := range keys {
		if f[key] != nil && !bool(f[key].Optional) {
			add(key, false)
		}
	}
	for _, key := range keys {
		add(key, false)
	}
	return strings.Join(items, ",")
}

var sizePattern = regexp.MustCompile(`^(\d+(?:\.\d+)?)([KMGT])?$`)

// parseSize reads a disk size such as 32G; a plain number counts bytes.
func parseSize(text string) (int64, error) {
	match := sizePattern.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("value does not look like a valid disk size: %s", text)
	}
	amount, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return 0, fmt.Errorf("value does not look like a valid disk size: %s", text)
	}
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]
	bytes := amount * float64(int64(1)<<shift)
	if bytes >= 1<<62 {
		return 0, fmt.Errorf("value does not look like a valid disk size: %s", text)
	}
	return int64(bytes), nil
}

// formatSize writes bytes in the largest unit that leaves no fraction.
func formatSize(bytes int64) string {
	units := []string{"", "K", "M", "G", "T"}
	unit := 0
	for unit < len(units)-1 && bytes != 0 && bytes%1024 == 0 {
		bytes /= 1024
		unit++
	}
	if bytes == 0 {
		return "0T"
	}
	return strconv.FormatInt(bytes, 10) + units[unit]
}
