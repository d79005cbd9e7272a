package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files")

// identical compares clusters; url.URL has unexported fields that Parse never sets.
func identical() cmp.Options {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b *url.URL) bool { return a != nil && b != nil && a.String() == b.String() }),
		cmpopts.EquateEmpty(),
	}
}

func fixtures(t testing.TB, pattern string) []string {
	t.Helper()

	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil {
		t.Fatal(err)
	}

	return files
}

func read(t testing.TB, file string) []byte {
	t.Helper()

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	return raw
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()

	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}

		return
	}

	if diff := cmp.Diff(string(read(t, file)), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got), run with -update when that is right:\n%s", file, diff)
	}
}

func TestValid(t *testing.T) {
	files := fixtures(t, "valid/*.yaml")
	if len(files) < 8 {
		t.Fatalf("found only %d fixtures", len(files))
	}

	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			cluster, err := ParseStackFile(read(t, file))
			if err != nil {
				t.Fatal(err)
			}

			var complete bytes.Buffer

			raw := marshal(t, sectionsOf(t, cluster))
			if err := json.Indent(&complete, raw, "", "  "); err != nil {
				t.Fatal(err)
			}

			complete.WriteByte('\n')
			golden(t, strings.TrimSuffix(file, ".yaml")+".json", complete.Bytes())
		})
	}
}

func TestInvalid(t *testing.T) {
	files := fixtures(t, "invalid/*.yaml")
	if len(files) < 25 {
		t.Fatalf("found only %d fixtures", len(files))
	}

	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			invalid := mustBeInvalid(t, read(t, file))
			if len(invalid.Defects) != 1 {
				t.Errorf("one mistake is reported as %d:\n%v", len(invalid.Defects), invalid)
			}

			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", []byte(invalid.Error()+"\n"))
		})
	}
}

func TestAllDefectsAtOnce(t *testing.T) {
	invalid := mustBeInvalid(t, read(t, "testdata/many-defects.yaml"))
	golden(t, "testdata/many-defects.txt", []byte(invalid.Error()+"\n"))

	if !slices.IsSortedFunc(invalid.Defects, func(a, b Defect) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("the defects are not sorted by path")
	}
}

func mustBeInvalid(t *testing.T, raw []byte) *InvalidError {
	t.Helper()

	cluster, err := ParseStackFile(raw)

	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("got cluster %v and error %v, want an InvalidError", cluster, err)
	}

	if cluster != nil {
		t.Error("got a cluster beside the error")
	}

	return invalid
}

// TestNoGoldenWithoutFixture finds expectations that nothing checks any more.
func TestNoGoldenWithoutFixture(t *testing.T) {
	for _, file := range slices.Concat(fixtures(t, "valid/*.json"), fixtures(t, "invalid/*.txt")) {
		if _, err := os.Stat(strings.TrimSuffix(file, filepath.Ext(file)) + ".yaml"); err != nil {
			t.Errorf("%s has no fixture: %v", file, err)
		}
	}
}

// TestCompleteConfigurationIsFixedPoint shows that a cluster holds everything that decides about it: written back as a
// configuration, it parses to itself.
func TestCompleteConfigurationIsFixedPoint(t *testing.T) {
	for _, file := range fixtures(t, "valid/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cluster, err := ParseStackFile(read(t, file))
			if err != nil {
				t.Fatal(err)
			}

			again, err := Parse(sectionsOf(t, cluster))
			if err != nil {
				t.Fatal(err)
			}

			if diff := cmp.Diff(cluster, again, identical()); diff != "" {
				t.Errorf("differs (-first +again):\n%s", diff)
			}
		})
	}
}

// TestDefaultsAreComplete checks that the least configuration leaves no field empty but those whose zero value has a meaning.
func TestDefaultsAreComplete(t *testing.T) {
	cluster, err := ParseStackFile(read(t, "testdata/valid/single-node.yaml"))
	if err != nil {
		t.Fatal(err)
	}

	meaningful := []string{
		"VIP", "Patches", "Image.Schematic", "Image.Checksum", "Image.Eject", "Proxmox.VLAN", "Proxmox.MTU", "Proxmox.Pool",
		"Proxmox.TLS.CAFile", "Proxmox.TLS.Insecure", "Nodes.Labels", "Nodes.Taints", "Nodes.Patches", "Nodes.TalosEndpoint",
	}

	var empty []string

	visit(reflect.ValueOf(*cluster), "", &empty)

	slices.Sort(empty)
	slices.Sort(meaningful)

	if diff := cmp.Diff(meaningful, empty); diff != "" {
		t.Errorf("fields without a value differ (-may be empty +are empty):\n%s", diff)
	}
}

func visit(v reflect.Value, path string, empty *[]string) {
	switch {
	case v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0:
		if path != "Proxmox.TLS" {
			*empty = append(*empty, path)

			return
		}

		fallthrough
	case v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[Cluster]().PkgPath():
		for i := range v.NumField() {
			visit(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), empty)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			visit(v.Index(i), path, empty)
		}
	}
}

// TestEveryKeyIsDocumented keeps docs/configuration.md complete.
func TestEveryKeyIsDocumented(t *testing.T) {
	doc := string(read(t, "../../docs/configuration.md"))

	var keys []string

	for prefix, section := range map[string]reflect.Type{
		"proxmox": reflect.TypeFor[rawProxmox](), "cluster": reflect.TypeFor[rawCluster](), "node": reflect.TypeFor[rawNode](),
	} {
		_, text, found := strings.Cut(doc, "## `cloudlab:"+strings.Replace(prefix, "node", "nodes", 1)+"`")
		if !found {
			t.Fatalf("the document has no section for %s", prefix)
		}

		text, _, _ = strings.Cut(text, "\n## ")
		keys = leaves(section, "")

		for _, key := range keys {
			if !strings.Contains(text, "| `"+key+"` |") {
				t.Errorf("docs/configuration.md does not explain %s of %s in its table", key, prefix)
			}
		}
	}
}

// leaves lists the keys that hold values, such as network.vlan or taints[].effect.
func leaves(t reflect.Type, prefix string) []string {
	var keys []string

	for i := range t.NumField() {
		field := t.Field(i)
		key := prefix + keyOf(field)

		switch {
		case field.Type.Kind() == reflect.Struct:
			keys = append(keys, leaves(field.Type, key+".")...)
		case field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct:
			keys = append(keys, leaves(field.Type.Elem(), key+"[].")...)
		default:
			keys = append(keys, key)
		}
	}

	return keys
}
