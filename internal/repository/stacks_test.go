package repository

import (
	"regexp"
	"strings"
	"testing"

	"cloudlab/internal/config"
)

// codeBlock is a fenced block of YAML in a page.
var codeBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// TestStackFilesAreValid holds what an operator copies: the stack files of the repository, and the whole ones that pages show.
func TestStackFilesAreValid(t *testing.T) {
	shown := 0
	check := func(name, content string) {
		if _, err := config.ParseStackFile([]byte(content)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, content)
		}
	}
	for _, name := range files(t) {
		switch {
		case strings.HasPrefix(name, "Pulumi.") && name != "Pulumi.yaml":
			check(name, string(read(t, name)))
		case strings.HasSuffix(name, ".md"):
			for _, block := range codeBlock.FindAllStringSubmatch(string(read(t, name)), -1) {
				// Other blocks are excerpts.
				if strings.HasPrefix(block[1], "config:\n") && strings.Contains(block[1], "cloudlab:nodes:") {
					shown++
					check(name, block[1])
				}
			}
		}
	}
	if shown == 0 {
		t.Error("no page shows a stack file: has their form changed?")
	}
}

// TestOperatorsStackNamesTheDefaults holds the versions in the operator's stack file to the program's own, as a comment cannot.
func TestOperatorsStackNamesTheDefaults(t *testing.T) {
	const least = "config:\n  cloudlab:proxmox: {endpoint: 'https://pve.example.com:8006'}\n  cloudlab:cluster: {name: cloudlab}\n" +
		"  cloudlab:nodes: {cp-1: {vmId: 101, address: 192.0.2.11/24, gateway: 192.0.2.1}}\n"
	want, err := config.ParseStackFile([]byte(least))
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.ParseStackFile(read(t, "Pulumi.cloudlab.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got.TalosVersion != want.TalosVersion || got.KubernetesVersion != want.KubernetesVersion {
		t.Errorf("Pulumi.cloudlab.yaml: Talos %s and Kubernetes %s, but a new stack gets %s and %s",
			got.TalosVersion, got.KubernetesVersion, want.TalosVersion, want.KubernetesVersion)
	}
	if !got.Protect {
		t.Error("Pulumi.cloudlab.yaml: the operator's cluster is not protected")
	}
}
