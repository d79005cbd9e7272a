package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"go.yaml.in/yaml/v3"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/sopsfile"
)

// outputNames maps the kinds of credentials to the stack's outputs.
func outputNames() map[string]string {
	return map[string]string{"kubeconfig": "kubeconfig", "talosconfig": "talosconfig", "machine-secrets": "machineSecrets"}
}

// TestExports: the encrypted files are what they say, for the tools that people have.
func TestExports(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.must(changes{"create": 15}, "up")

	shown, hidden := l.outputs("--show-secrets"), l.outputs()
	for kind, output := range outputNames() {
		path := l.credentialFile(kind)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v, want 0600", kind, err, info.Mode())
		}
		if diff := cmp.Diff(shown[output], l.tool(toolchain.SOPS, nil, "decrypt", "--input-type", "yaml", "--output-type", "yaml", path)); diff != "" {
			t.Errorf("%s: stack output (-) and what sops decrypts (+) differ:\n%s", kind, diff)
		}
		if diff := cmp.Diff(shown[output], string(l.decrypted(kind))); diff != "" {
			t.Errorf("%s: stack output (-) and what the program decrypts (+) differ:\n%s", kind, diff)
		}
		if hidden[output] != "[secret]" {
			t.Errorf("output %s is shown to everybody", output)
		}
		l.checkDataKey(path)
	}
	l.checkBundle()
	l.checkExport(shown)
	l.checkSecondClient()
	l.noSecretInClear()
}

// outputs asks real pulumi, in the environment that the sandbox gives to people.
func (l *lab) outputs(args ...string) map[string]string {
	l.t.Helper()
	raw := l.tool(toolchain.Pulumi, nil, append([]string{"stack", "output", "--json", "--stack", sandbox.Stack, "--cwd", l.Folder().Project()}, args...)...)
	var all map[string]any
	if err := json.Unmarshal([]byte(raw), &all); err != nil {
		l.t.Fatalf("%v\n%s", err, raw)
	}
	texts := map[string]string{}
	for name, value := range all {
		if text, ok := value.(string); ok {
			texts[name] = text
		}
	}
	return texts
}

// tool runs a tool of the tool chain and returns its standard output.
func (l *lab) tool(name toolchain.Name, in []byte, args ...string) string {
	l.t.Helper()
	return l.program(tools.Path(name), in, args...)
}

func (l *lab) program(path string, in []byte, args ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), operationLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = root
	cmd.Env = append(l.environ(toolchain.Environ(l.Folder().Pulumi())...), "PATH="+filepath.Join(l.Folder().Pulumi(), "bin")+":"+os.Getenv("PATH"))
	var out, people bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &people
	if err := cmd.Run(); err != nil {
		l.t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, tail(people.String(), 40))
	}
	return out.String()
}

// checkDataKey decrypts the key of a file with real age.
func (l *lab) checkDataKey(path string) {
	l.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	var file struct {
		SOPS struct {
			Age []struct {
				Enc string `yaml:"enc"`
			} `yaml:"age"`
		} `yaml:"sops"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil || len(file.SOPS.Age) != 1 {
		l.t.Fatalf("%s: %v, want one age recipient", path, err)
	}
	key := l.tool(toolchain.Age, []byte(file.SOPS.Age[0].Enc), "--decrypt", "--identity", l.projectFile(sopsfile.KeyFileName))
	if len(key) != 32 {
		l.t.Errorf("%s: age decrypts %d bytes, want a key of 32", path, len(key))
	}
}

// checkBundle: disaster recovery would start from the secrets that the machine runs with.
func (l *lab) checkBundle() {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "secrets.yaml")
	write(l.t, path, string(l.decrypted("machine-secrets")))
	exported, err := secrets.LoadBundle(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := exported.Validate(); err != nil {
		l.t.Error(err)
	}
	config, err := configloader.NewFromBytes(l.machineConfig("192.0.2.11"))
	if err != nil {
		l.t.Fatal(err)
	}
	used := secrets.NewBundleFromConfig(secrets.NewFixedClock(exported.Clock.Now()), config)
	want, err := yaml.Marshal(asYAML(l.t, used))
	if err != nil {
		l.t.Fatal(err)
	}
	got, err := yaml.Marshal(asYAML(l.t, exported))
	if err != nil {
		l.t.Fatal(err)
	}
	// Not a diff: it would show secrets.
	if !bytes.Equal(want, got) {
		l.t.Error("the exported machine secrets are not those in the machine's config")
	}
}

func asYAML(t *testing.T, bundle *secrets.Bundle) map[string]any {
	t.Helper()
	raw, err := yaml.Marshal(bundle)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// checkExport: writing the credentials again from the state changes nothing, and brings back what is lost.
func (l *lab) checkExport(outputs map[string]string) {
	l.t.Helper()
	before := stamps(l.t, l)
	export := func() { l.program(exporter, nil, "export", "--stack", sandbox.Stack, "--dir", l.Folder().Project()) }
	export()
	if diff := cmp.Diff(before, stamps(l.t, l)); diff != "" {
		l.t.Errorf("an export touched files that already say the same (-before +after):\n%s", diff)
	}
	remove(l.t, l.credentialFile("talosconfig"))
	export()
	if string(l.decrypted("talosconfig")) != outputs["talosconfig"] {
		l.t.Error("an export did not bring the talosconfig back")
	}
	remove(l.t, l.credentialFile("kubeconfig"))
	l.must(changes{"same": 15}, "up")
	if string(l.decrypted("kubeconfig")) != outputs["kubeconfig"] {
		l.t.Error("an up did not bring the kubeconfig back")
	}
}

// checkSecondClient looks at the result with a client of Proxmox that shares nothing with the provider.
func (l *lab) checkSecondClient() {
	l.t.Helper()
	client := l.proxmoxClient()
	cluster, err := client.Cluster(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	resources, err := cluster.Resources(l.t.Context(), "vm")
	if err != nil {
		l.t.Fatal(err)
	}
	if len(resources) != 1 || resources[0].VMID != 101 || resources[0].Name != "cp-1" || resources[0].Status != "running" {
		l.t.Errorf("machines %+v, want cp-1 as VM 101, running", resources)
	}
}

// TestTalosctl: the real client manages the node with the stack's own talosconfig.
func TestTalosctl(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := sandboxStack(t)
	c.cluster["talosVersion"], c.cluster["kubernetesVersion"] = "v1.13.0", "v1.36.0"
	l.mustWith(c, changes{"create": 15}, "up")
	expect := func(want string, args ...string) {
		t.Helper()
		if out := l.talosctl(args...); !strings.Contains(out, want) {
			t.Errorf("talosctl %s: %q is not in\n%s", strings.Join(args, " "), want, tail(out, 40))
		}
	}
	// Endpoint and node come from the talosconfig.
	expect("v1.13.0", "version")
	expect("v1alpha1", "get", "machineconfig")
	expect("cp-1", "get", "members")
	expect("true", "get", "securitystate")
	expect("luks2", "get", "volumestatus", "STATE", "-o", "yaml")
	expect("luks2", "get", "volumestatus", "EPHEMERAL", "-o", "yaml")
	expect("local-storage", "get", "volumestatus")
	expect("ext-qemu-guest-agent", "services")
	expect("192.0.2.11/24", "get", "addresses")
	expect("cp-1", "get", "hostname")
	expect("cp-1", "etcd", "members")
	// The machines are healthy; the Kubernetes part is not simulated and says so.
	if out, err := l.tryTalosctl("health", "--wait-timeout", "2s"); err == nil || !strings.Contains(out, "the machines are healthy") {
		t.Errorf("talosctl health: %v\n%s", err, tail(out, 40))
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	l.talosctl("kubeconfig", kubeconfig)
	l.sameCluster(kubeconfig)

	l.talosctl("reboot", "--timeout", "20s")
	l.awaitRunning()
	l.talosctl("upgrade", "--drain=false", "--timeout", "20s", "--image", strings.ReplaceAll(l.installImage(), ":v1.13.0", ":v1.13.9"))
	l.eventually(func() string {
		return unless(l.Rack.Status()[0].Version == "v1.13.9", "still "+l.Rack.Status()[0].Version)
	})
	l.awaitRunning()
	expect("v1.13.9", "version")
	// What a person did with talosctl leaves the stack as it is, and the configuration may follow.
	l.mustWith(c, changes{"same": 15}, "up")
	c.cluster["talosVersion"] = "v1.13.9"
	l.mustWith(c, versionChange(), "up")
	l.mustWith(c, changes{"same": 15}, "refresh")
	expect("v1.13.9", "version")
}

func unless(fine bool, missing string) string {
	if fine {
		return ""
	}
	return missing
}

// sameCluster: a kubeconfig names the same API and trusts the same CA as the exported one.
func (l *lab) sameCluster(path string) {
	l.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	type kubeconfig struct {
		Clusters []struct {
			Name    string
			Cluster map[string]string
		}
	}
	var got, want kubeconfig
	if err := yaml.Unmarshal(raw, &got); err != nil {
		l.t.Fatal(err)
	}
	if err := yaml.Unmarshal(l.decrypted("kubeconfig"), &want); err != nil {
		l.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("talosctl's kubeconfig (-exported +talosctl):\n%s", diff)
	}
	if len(got.Clusters) != 1 || got.Clusters[0].Cluster["server"] != "https://192.0.2.11:6443" {
		l.t.Errorf("clusters %+v", got.Clusters)
	}
}

// installImage is the installer in the machine's config.
func (l *lab) installImage() string {
	l.t.Helper()
	var config struct {
		Machine struct {
			Install struct{ Image string }
		}
	}
	if err := yaml.Unmarshal(l.machineConfig("192.0.2.11"), &config); err != nil {
		l.t.Fatal(err)
	}
	return config.Machine.Install.Image
}
