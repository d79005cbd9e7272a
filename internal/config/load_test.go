package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

type noResources struct{}

func (noResources) NewResource(pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	return "", nil, nil
}

func (noResources) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) {
	return nil, nil
}

// load runs Load in a program of project cloudlab and stack test.
func load(t *testing.T, values map[string]string, secrets ...string) (cluster *Cluster, err error) {
	t.Helper()

	runErr := pulumi.RunErr(func(ctx *pulumi.Context) error {
		cluster, err = Load(ctx)

		return nil
	}, pulumi.WithMocks("cloudlab", "test", noResources{}), func(info *pulumi.RunInfo) {
		info.Config = values
		info.ConfigSecretKeys = secrets
	})
	if runErr != nil {
		t.Fatal(runErr)
	}

	return cluster, err
}

func TestLoad(t *testing.T) {
	cluster, err := load(t, map[string]string{"cloudlab:proxmox": leastProxmox, "cloudlab:cluster": leastCluster, "cloudlab:nodes": leastNodes})
	if err != nil {
		t.Fatal(err)
	}

	want, err := Parse(Sections{Proxmox: json.RawMessage(leastProxmox), Cluster: json.RawMessage(leastCluster), Nodes: json.RawMessage(leastNodes)})
	if err != nil {
		t.Fatal(err)
	}

	if diff := cmp.Diff(want, cluster, identical()); diff != "" {
		t.Errorf("differs (-want +got):\n%s", diff)
	}
}

func TestLoadReportsWhereToEdit(t *testing.T) {
	_, err := load(t, map[string]string{"cloudlab:proxmox": "AAAB", "cloudlab:cluster": `{"name":"X"}`}, "cloudlab:proxmox")
	if err == nil {
		t.Fatal("got no error")
	}

	want := strings.Join([]string{
		"stack test: correct Pulumi.test.yaml (see docs/configuration.md):",
		`cluster.name: "X" is not a cluster name (a DNS label: up to 63 lower-case letters, digits and dashes, no dash at either end): write x`,
		`nodes: missing, expected a map of at least one node by its name: add cloudlab:nodes to the stack's configuration`,
		`proxmox: an encrypted value is not a plain value: write it in clear; the program's only secrets are in secrets.enc.json, edit that with sops`,
	}, "\n")
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error differs (-want +got):\n%s", diff)
	}
}
