package e2e

import (
	"fmt"
	"testing"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

// configuration is a stack configuration that tests change piece by piece.
type configuration struct {
	proxmox, cluster, nodes object
}

// sandboxStack is what Pulumi.sandbox.yaml says.
func sandboxStack(t *testing.T) *configuration {
	t.Helper()
	var file struct {
		Config map[string]object `json:"config"`
	}
	if err := yaml.UnmarshalStrict([]byte(defaultStack(t)), &file); err != nil {
		t.Fatal(err)
	}
	c := file.Config
	return &configuration{proxmox: c["cloudlab:proxmox"], cluster: c["cloudlab:cluster"], nodes: c["cloudlab:nodes"]}
}

// node is a node's settings, made when there are none.
func (c *configuration) node(name string) object {
	settings, ok := c.nodes[name].(object)
	if !ok {
		settings = object{}
		c.nodes[name] = settings
	}
	return settings
}

// addNode adds a node whose VM number and address end in the same number.
func (c *configuration) addNode(name, role, proxmoxNode string, number int) {
	c.nodes[name] = object{
		"role": role, "proxmoxNode": proxmoxNode, "vmId": 100 + number, "address": fmt.Sprintf("192.0.2.%d/24", 10+number), "gateway": "192.0.2.1",
		"memory": 4096,
	}
}

// file writes the configuration and returns the arguments that choose it.
func (c *configuration) file(l *lab) []string {
	l.t.Helper()
	text, err := yaml.Marshal(object{"config": object{
		"cloudlab:proxmox": c.proxmox, "cloudlab:cluster": c.cluster, "cloudlab:nodes": c.nodes,
	}})
	if err != nil {
		l.t.Fatal(err)
	}
	return []string{"--config", l.stackFile(string(text))}
}

// mustWith is must with a configuration.
func (l *lab) mustWith(c *configuration, want changes, operation string) result {
	l.t.Helper()
	return l.must(want, append([]string{operation}, c.file(l)...)...)
}

// refused runs an operation that has to fail.
func (l *lab) refused(c *configuration, operation string) result {
	l.t.Helper()
	r := l.run(append([]string{operation}, c.file(l)...)...)
	if r.err == nil {
		l.t.Fatalf("%s succeeded with %v, want a refusal\n%s", operation, r.summary, tail(r.output, 40))
	}
	return r
}
