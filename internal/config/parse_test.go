package config

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	leastProxmox = `{"endpoint":"https://pve.example.com:8006"}`
	leastCluster = `{"name":"cloudlab"}`
	leastNodes   = `{"cp-1":{"vmId":101,"address":"192.0.2.11/24","gateway":"192.0.2.1"}}`
)

// TestParseJSON covers what YAML cannot express.
func TestParseJSON(t *testing.T) {
	tests := []struct {
		name                    string
		proxmox, cluster, nodes string
		want                    string
	}{
		{name: "least"},
		{
			name: "key given twice", cluster: `{"name":"cloudlab","name":"other"}`,
			want: `cluster.name: "other" is not the only value of its key: the key is given twice, keep one`,
		},
		{
			name: "node given twice", nodes: `{"cp-1":{"vmId":101,"address":"192.0.2.11/24","gateway":"192.0.2.1"},"cp-1":{}}`,
			want: `nodes.cp-1: {} is not the only value of its key: the key is given twice, keep one`,
		},
		{
			name: "not JSON", cluster: `cloudlab`,
			want: `cluster: "cloudlab" is not a map: invalid character 'c' looking for beginning of value; write the section as a map in the stack's file`,
		},
		{
			name: "cut off", cluster: `{"name":"cloudlab"`,
			want: `cluster: "{\"name\":\"cloudlab\"" is not a map: it ends too early; write the section as a map in the stack's file`,
		},
		{
			name: "more than one value", cluster: `{"name":"cloudlab"} {}`,
			want: `cluster: "{\"name\":\"cloudlab\"} {}" is not a map: there is more after the first value; write the section as a map in the stack's file`,
		},
		{
			name: "a list for a section", nodes: `[]`,
			want: `nodes: [] is not a map`,
		},
		{
			name: "null", nodes: `null`,
			want: `nodes: null is not a map: give a value or remove the key`,
		},
		{
			name: "too deep", cluster: `{"name":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
			want: `cluster: "{\"name\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]…" is not a map: nested deeper than 32 levels; write the section as a map in the stack's file`,
		},
		{
			name: "a number too large", nodes: `{"cp-1":{"vmId":99999999999999999999,"address":"192.0.2.11/24","gateway":"192.0.2.1"}}`,
			want: `nodes.cp-1.vmId: 99999999999999999999 is not a whole number`,
		},
	}

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pick := func(given, least string) json.RawMessage {
				if given == "" {
					return json.RawMessage(least)
				}

				return json.RawMessage(given)
			}

			_, err := Parse(Sections{
				Proxmox: pick(test.proxmox, leastProxmox), Cluster: pick(test.cluster, leastCluster), Nodes: pick(test.nodes, leastNodes),
			})

			got := ""
			if err != nil {
				got = err.Error()
			}

			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseNothing(t *testing.T) {
	_, err := Parse(Sections{})

	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok {
		t.Fatalf("got %v, want an InvalidError", err)
	}

	var paths []string
	for _, d := range invalid.Defects {
		paths = append(paths, d.Path)
	}

	if diff := cmp.Diff([]string{"cluster", "nodes", "proxmox"}, paths); diff != "" {
		t.Errorf("paths differ (-want +got):\n%s", diff)
	}
}

// TestNoPasswordIsShown: a password in an address must not reach a terminal or a log.
func TestNoPasswordIsShown(t *testing.T) {
	for _, endpoint := range []string{"https://root:hunter2@pve.example.com:8006", "http://root:hunter2@pve/x", "root:hunter2@pve:8006", "https://root:hunter2@pve:80x"} {
		_, err := Parse(Sections{
			Proxmox: marshal(t, map[string]string{"endpoint": endpoint}),
			Cluster: json.RawMessage(leastCluster), Nodes: json.RawMessage(leastNodes),
		})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", endpoint, err)
		}
	}
}

func TestStackFileErrors(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"not YAML", "config: [", "read the stack's file: yaml: line 1: did not find expected node content"},
		{
			"key given twice", "config:\n  cloudlab:cluster:\n    name: a\n    name: b\n",
			"read the stack's file: yaml: unmarshal errors:\n  line 4: mapping key \"name\" already defined at line 3",
		},
	}

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseStackFile([]byte(test.raw))
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	tests := []struct {
		word, want string
		candidates []string
	}{
		{"addess", "address", []string{"address", "gateway"}},
		{"addrses", "address", []string{"address", "gateway"}},
		{"cafile", "caFile", []string{"caFile", "insecure"}},
		{"control-plane", "controlplane", []string{"controlplane", "worker"}},
		{"zebra", "", []string{"address", "gateway"}},
		{"", "", []string{"address"}},
	}

	for _, test := range tests {
		if got := nearest(test.word, test.candidates); got != test.want {
			t.Errorf("nearest(%q) = %q, want %q", test.word, got, test.want)
		}
	}
}

func TestExtensionListIsSorted(t *testing.T) {
	list := officialExtensions()
	if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
		t.Error("the list is not sorted, or names an extension twice")
	}

	for _, name := range defaultExtensions() {
		if !slices.Contains(list, name) {
			t.Errorf("the default %s is not in the list", name)
		}
	}

	if !slices.IsSorted(defaultExtensions()) || !slices.IsSorted(defaultTags()) {
		t.Error("a default is not sorted")
	}
}

func TestDeriveMAC(t *testing.T) {
	first := deriveMAC("cloudlab", 101)

	if first != deriveMAC("cloudlab", 101) {
		t.Error("the same machine has two addresses")
	}

	if first == deriveMAC("cloudlab", 102) || first == deriveMAC("home", 101) {
		t.Error("two machines have the same address")
	}

	if !strings.HasPrefix(first, "BC:24:11:") || len(first) != len("BC:24:11:00:00:01") {
		t.Errorf("got %s", first)
	}
}

// TestOrder: reordering what has no order changes nothing, and the bootstrapping node is the first control plane.
func TestOrder(t *testing.T) {
	parse := func(cluster, nodes string) *Cluster {
		t.Helper()

		c, err := Parse(Sections{Proxmox: json.RawMessage(leastProxmox), Cluster: json.RawMessage(cluster), Nodes: json.RawMessage(nodes)})
		if err != nil {
			t.Fatal(err)
		}

		return c
	}

	worker := `"a":{"role":"worker","vmId":102,"address":"192.0.2.12/24","gateway":"192.0.2.1"}`
	plane := `"b":{"role":"controlplane","vmId":101,"address":"192.0.2.11/24","gateway":"192.0.2.1"}`
	image := func(extensions string) string {
		return `{"name":"cloudlab","image":{"extensions":[` + extensions + `]}}`
	}

	one := parse(image(`"siderolabs/qemu-guest-agent","siderolabs/btrfs"`), "{"+worker+","+plane+"}")
	two := parse(image(`"siderolabs/btrfs","siderolabs/qemu-guest-agent"`), "{"+plane+","+worker+"}")

	if diff := cmp.Diff(one, two, identical()); diff != "" {
		t.Errorf("order matters (-one +two):\n%s", diff)
	}

	if one.Nodes[0].Name != "b" {
		t.Errorf("the first node is %s", one.Nodes[0].Name)
	}
}
