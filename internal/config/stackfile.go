package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// namespace is the project's name in configuration keys.
const namespace = "cloudlab"

// ParseStackFile parses the configuration in the bytes of a Pulumi.<stack>.yaml as Pulumi would hand it over, without Pulumi.
// Keys of other namespaces are ignored. Defects are reported as an [*InvalidError].
func ParseStackFile(raw []byte) (*Cluster, error) {
	var file struct {
		Config map[string]any `yaml:"config"`
	}

	if err := yaml.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("read the stack's file: %w", err)
	}

	c := newChecker()

	var sections Sections

	known := map[string]*json.RawMessage{"proxmox": &sections.Proxmox, "cluster": &sections.Cluster, "nodes": &sections.Nodes}
	names := slices.Sorted(maps.Keys(known))

	for _, key := range slices.Sorted(maps.Keys(file.Config)) {
		name, ours := strings.CutPrefix(key, namespace+":")
		if !ours {
			continue
		}

		into, ok := known[name]
		if !ok {
			suggestion := "the known keys are " + namespace + ":" + strings.Join(names, ", "+namespace+":")
			if near := nearest(name, names); near != "" {
				suggestion = write(namespace + ":" + near)
				c.excuse(near)
			}

			c.reject(join("config", key), key, "a known key", suggestion)

			continue
		}

		value := file.Config[key]
		if path := secretIn(value, name); path != "" {
			c.secret(path)
			c.excuse(name)

			continue
		}

		section, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("read %s from the stack's file: %w", key, err)
		}

		*into = section
	}

	return parse(c, sections)
}

// secret refuses an encrypted value.
func (c *checker) secret(path string) {
	c.add(Defect{
		Path: path, Value: "an encrypted value", Expected: "a plain value",
		Suggestion: "write it in clear; the program's only secrets are in secrets.enc.json, edit that with sops",
	})
}

// secretIn returns the path of the first value that Pulumi has encrypted, a map with the single key secure, or "".
func secretIn(value any, path string) string {
	switch v := value.(type) {
	case map[string]any:
		if _, ok := v["secure"].(string); ok && len(v) == 1 {
			return path
		}

		for _, key := range slices.Sorted(maps.Keys(v)) {
			if found := secretIn(v[key], join(path, key)); found != "" {
				return found
			}
		}
	case []any:
		for i, item := range v {
			if found := secretIn(item, index(path, i)); found != "" {
				return found
			}
		}
	}

	return ""
}
