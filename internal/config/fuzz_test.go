package config

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// FuzzParse: any input gives either a valid cluster, which parses to itself when written back, or an InvalidError.
func FuzzParse(f *testing.F) {
	for _, file := range slices.Concat(fixtures(f, "valid/*.yaml"), fixtures(f, "invalid/*.yaml"), fixtures(f, "*.yaml")) {
		var stack struct {
			Config map[string]any `yaml:"config"`
		}

		if err := yaml.Unmarshal(read(f, file), &stack); err != nil {
			f.Fatal(err)
		}

		seed := func(key string) []byte { return marshal(f, stack.Config["cloudlab:"+key]) }
		f.Add(seed("proxmox"), seed("cluster"), seed("nodes"))
	}

	f.Fuzz(func(t *testing.T, proxmox, cluster, nodes []byte) {
		check(t, func() (*Cluster, error) { return Parse(Sections{Proxmox: proxmox, Cluster: cluster, Nodes: nodes}) })
	})
}

// FuzzParseStackFile does the same through YAML.
func FuzzParseStackFile(f *testing.F) {
	for _, file := range slices.Concat(fixtures(f, "valid/*.yaml"), fixtures(f, "invalid/*.yaml"), fixtures(f, "*.yaml")) {
		f.Add(read(f, file))
	}

	f.Fuzz(func(t *testing.T, raw []byte) {
		var invalid *InvalidError
		if cluster, err := ParseStackFile(raw); err == nil || errors.As(err, &invalid) {
			check(t, func() (*Cluster, error) { return cluster, err })
		}
	})
}

func check(t *testing.T, parse func() (*Cluster, error)) {
	t.Helper()

	cluster, err := parse()
	if err != nil {
		invalid, ok := errors.AsType[*InvalidError](err)
		if !ok || len(invalid.Defects) == 0 || cluster != nil {
			t.Fatalf("got cluster %v and error %v", cluster, err)
		}

		return
	}

	sections := sectionsOf(t, cluster)

	again, err := Parse(sections)
	if err != nil {
		t.Fatalf("a parsed cluster is invalid: %v\n%s", err, marshal(t, sections))
	}

	if diff := cmp.Diff(cluster, again, identical()); diff != "" {
		t.Fatalf("a parsed cluster changes (-first +again):\n%s", diff)
	}
}
