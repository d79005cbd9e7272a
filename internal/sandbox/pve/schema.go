package pve

import (
	_ "embed" // the schemas
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed pve-api-8.4.5.json
var embeddedSchema string

//go:embed supplement.json
var embeddedSupplement string

//go:embed formats.json
var embeddedFormats string

// schema is Proxmox's description of its API: which methods exist, their parameters and who may call them.
type schema struct {
	methods []*method
	// formats are the named property-string formats.
	formats map[string]fields
	// config describes every option of a virtual machine's configuration.
	config fields
}

// fields are the properties of an object or of a property string, by name.
type fields map[string]*property

type method struct {
	verb       string
	path       string
	segments   []string
	Parameters fields       `json:"parameters"`
	Permission *permissions `json:"permissions"`
}

type property struct {
	Type       string   `json:"type"`
	Format     format   `json:"format"`
	Pattern    string   `json:"pattern"`
	Enum       []string `json:"enum"`
	Minimum    *number  `json:"minimum"`
	Maximum    *number  `json:"maximum"`
	MinLength  *number  `json:"minLength"`
	MaxLength  *number  `json:"maxLength"`
	Optional   perlBool `json:"optional"`
	DefaultKey perlBool `json:"default_key"`
	Alias      string   `json:"alias"`
	KeyAlias   string   `json:"keyAlias"`
	Requires   string   `json:"requires"`

	expression *regexp.Regexp
}

// format is either the name of a format or the fields of a property string.
type format struct {
	name   string
	fields fields
}

func (f *format) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &f.name)
	}
	return json.Unmarshal(raw, &f.fields)
}

// number may be written as a JSON number or as a string.
type number float64

func (n *number) UnmarshalJSON(raw []byte) error {
	value, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil {
		return fmt.Errorf("number %s: %w", raw, err)
	}
	*n = number(value)
	return nil
}

func (n number) String() string { return strconv.FormatFloat(float64(n), 'f', -1, 64) }

// perlBool is Perl's 1 or 0.
type perlBool bool

func (f *perlBool) UnmarshalJSON(raw []byte) error {
	*f = string(raw) == "1" || string(raw) == "true"
	return nil
}

func loadSchema() (*schema, error) {
	s := &schema{formats: map[string]fields{}}
	if err := json.Unmarshal([]byte(embeddedFormats), &s.formats); err != nil {
		return nil, fmt.Errorf("formats.json: %w", err)
	}
	for _, f := range s.formats {
		if err := f.compile(); err != nil {
			return nil, fmt.Errorf("formats.json: %w", err)
		}
	}
	for name, text := range map[string]string{"pve-api-8.4.5.json": embeddedSchema, "supplement.json": embeddedSupplement} {
		var document struct {
			Methods map[string]*method `json:"methods"`
		}
		if err := json.Unmarshal([]byte(text), &document); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for key, m := range document.Methods {
			if err := s.add(key, m); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, key, err)
			}
		}
	}
	create := s.lookup("POST", "/nodes/{node}/qemu")
	if create == nil {
		return nil, fmt.Errorf("schema lacks POST /nodes/{node}/qemu")
	}
	s.config = create.Parameters
	s.formats["pve-qm-ide"] = s.config["ide0"].Format.fields
	return s, nil
}

func (s *schema) add(key string, m *method) error {
	verb, path, ok := strings.Cut(key, " ")
	if !ok {
		return fmt.Errorf("method key without a path")
	}
	m.verb, m.path, m.segments = verb, path, splitPath(path)
	for _, name := range slices.Collect(maps.Keys(m.Parameters)) {
		base, indexed := strings.CutSuffix(name, "[n]")
		if !indexed {
			continue
		}
		p := m.Parameters[name]
		delete(m.Parameters, name)
		for i := range deviceLimit(base) {
			m.Parameters[base+strconv.Itoa(i)] = p
		}
	}
	s.methods = append(s.methods, m)
	return m.Parameters.compile()
}

// deviceLimit is how many devices of a kind a virtual machine may have.
func deviceLimit(kind string) int {
	switch kind {
	case "ide", "serial":
		return 4
	case "parallel":
		return 3
	case "sata":
		return 6
	case "scsi":
		return 31
	case "virtio", "hostpci":
		return 16
	case "net", "ipconfig":
		return 32
	case "unused":
		return 256
	case "usb":
		return 14
	case "numa":
		return 8
	default:
		return 10
	}
}

func (f fields) compile() error {
	for name, p := range f {
		if p.Format.fields != nil {
			if err := p.Format.fields.compile(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if p.Pattern == "" || p.expression != nil {
			continue
		}
		// Perl writes (?^:…) for a group with default flags and reads {,n} as {0,n}.
		text := strings.NewReplacer("(?^:", "(?:", "{,", "{0,").Replace(p.Pattern)
		expression, err := regexp.Compile("^" + text + "$")
		if err != nil {
			return fmt.Errorf("%s: pattern: %w", name, err)
		}
		p.expression = expression
	}
	return nil
}

func (s *schema) lookup(verb, path string) *method {
	for _, m := range s.methods {
		if m.verb == verb && m.path == path {
			return m
		}
	}
	return nil
}

// match finds the method for an unescaped path and the parameters in it.
func (s *schema) match(verb, path string) (*method, map[string]string) {
	parts := splitPath(path)
	for _, m := range s.methods {
		if m.verb != verb {
			continue
		}
		if uri, ok := m.match(parts); ok {
			return m, uri
		}
	}
	return nil, nil
}

func (m *method) match(parts []string) (map[string]string, bool) {
	last := len(m.segments) - 1
	// A volume name contains slashes, so it takes the rest of the path.
	if last >= 0 && m.segments[last] == "{volume}" && len(parts) > len(m.segments) {
		parts = append(slices.Clone(parts[:last]), strings.Join(parts[last:], "/"))
	}
	if len(parts) != len(m.segments) {
		return nil, false
	}
	uri := map[string]string{}
	for i, segment := range m.segments {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			uri[strings.TrimSuffix(name, "}")] = parts[i]
		} else if segment != parts[i] {
			return nil, false
		}
	}
	return uri, true
}

func splitPath(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(part string) bool { return part == "" })
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
