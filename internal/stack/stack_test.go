package stack

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"

	"cloudlab/internal/pulumimock"
	"cloudlab/internal/sopsfile"
)

// tree writes resources as "parent/name type".
func tree(resources []pulumimock.Registration) []string {
	var lines []string
	for _, r := range resources {
		lines = append(lines, fmt.Sprintf("%s/%s %s", r.Parent, nameWithoutVersion(r), r.Type))
	}
	slices.Sort(lines)
	return lines
}

// nameWithoutVersion leaves out what the name of a boot image's file says about its content.
func nameWithoutVersion(r pulumimock.Registration) string {
	if r.Type != fileType {
		return r.Name
	}
	name, _, _ := strings.Cut(r.Name, "-v1.")
	return name
}

func node(name string) []string {
	return []string{
		"machines/" + name + " " + vmType,
		"CLUSTER/" + name + "-install " + applyType,
		"CLUSTER/" + name + "-configure " + applyType,
	}
}

func TestResources(t *testing.T) {
	tests := []struct {
		fixture, cluster string
		images, nodes    []string
	}{
		{"single-node", "cloudlab", []string{"pve"}, []string{"cp-1"}},
		{"three-plus-two", "home", []string{"pve", "pve2"}, []string{"cp-1", "cp-2", "cp-3", "gpu", "worker"}},
	}
	for _, test := range tests {
		t.Run(test.fixture, func(t *testing.T) {
			want := []string{
				"/proxmox pulumi:providers:proxmoxve", "/talos pulumi:providers:talos",
				"/image cloudlab:talos:Image", "image/image " + schematicType,
				"/secrets cloudlab:talos:Secrets", "secrets/secrets " + secretsType,
				"/boot-image cloudlab:proxmox:BootImage", "/machines cloudlab:proxmox:Machines",
				"/" + test.cluster + " cloudlab:talos:Cluster", "CLUSTER/kubeconfig " + kubeType,
			}
			for _, image := range test.images {
				want = append(want, "boot-image/boot-image-"+image+" "+fileType)
			}
			for _, name := range test.nodes {
				want = append(want, node(name)...)
			}
			for i := range want {
				want[i] = strings.Replace(want[i], "CLUSTER/", test.cluster+"/", 1)
			}
			slices.Sort(want)
			recording := newProject(t, test.fixture).must()
			if diff := cmp.Diff(want, tree(recording.Resources)); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
			for _, r := range recording.Resources {
				_, registered := recording.Outputs[r.Name]
				if strings.HasPrefix(r.Type, "cloudlab:") && !registered {
					t.Errorf("component %s registers no outputs", r.Name)
				}
			}
		})
	}
}

func TestGivenSchematicIsNotRegistered(t *testing.T) {
	for _, r := range newProject(t, "given-schematic").must().Resources {
		switch r.Type {
		case schematicType:
			t.Errorf("resource %s although a schematic is given", r.Name)
		case fileType:
			const want = "https://factory.talos.dev/image/ce4c980550dd2ab1b17bbf2b08801c7eb59418eafe8f279833297925d67c7515/v1.13.9/metal-amd64-secureboot.iso"
			if url := r.Inputs["url"].StringValue(); url != want {
				t.Errorf("ISO from %s, want %s", url, want)
			}
		}
	}
}

// TestProvidersAreExplicit holds with pulumi:disable-default-providers, and keeps versions in one place.
func TestProvidersAreExplicit(t *testing.T) {
	for _, r := range newProject(t, "three-plus-two").must().Resources {
		if !r.Request.GetCustom() || strings.HasPrefix(r.Type, "pulumi:providers:") {
			continue
		}
		system, _, _ := strings.Cut(r.Type, ":")
		if !strings.Contains(r.Request.GetProvider(), "pulumi:providers:"+system+"::") {
			t.Errorf("%s %s uses provider %q", r.Type, r.Name, r.Request.GetProvider())
		}
	}
}

func TestProviderSettings(t *testing.T) {
	p := newProject(t, "insecure")
	recording := p.must()
	proxmox := recording.Resource(t, "pulumi:providers:proxmoxve", "proxmox").Inputs
	if token := proxmox["apiToken"]; !token.IsSecret() {
		t.Errorf("the API token is no secret: %v", token)
	}
	if insecure := unwrap(proxmox["insecure"]); !strings.Contains(fmt.Sprint(insecure), "true") {
		t.Errorf("insecure is %v although configured", insecure)
	}
	verified := newProject(t, "single-node").must().Resource(t, "pulumi:providers:proxmoxve", "proxmox").Inputs
	if insecure := unwrap(verified["insecure"]); strings.Contains(fmt.Sprint(insecure), "true") {
		t.Errorf("insecure is %v although not configured", insecure)
	}
}

func unwrap(value resource.PropertyValue) resource.PropertyValue {
	for value.IsSecret() {
		value = value.SecretValue().Element
	}
	return value
}

// TestProtection covers what cannot be rebuilt, and what would be lost before it by a destroy that is refused.
func TestProtection(t *testing.T) {
	protected := []string{vmType, secretsType, applyType, kubeType}
	for _, want := range []bool{true, false} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			p := newProject(t, "three-plus-two")
			if want {
				p.replace("protect: false", "protect: true")
			}
			for _, r := range p.must().Resources {
				if expected := want && slices.Contains(protected, r.Type); r.Request.GetProtect() != expected {
					t.Errorf("%s %s: protected %t, want %t", r.Type, r.Name, r.Request.GetProtect(), expected)
				}
			}
		})
	}
}

func TestOptions(t *testing.T) {
	recording := newProject(t, "three-plus-two").must()
	vm := recording.Resource(t, vmType, "cp-1")
	if !vm.Request.GetDeleteBeforeReplace() {
		t.Error("a machine's number is unique: the old one must go first")
	}
	if diff := cmp.Diff([]string{"clear-orphan"}, vm.Request.GetHooks().GetBeforeCreate()); diff != "" {
		t.Errorf("hooks of a machine (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"cdrom.enabled", "disks[0].speed", "disks[1].speed"}, vm.Request.GetIgnoreChanges()); diff != "" {
		t.Errorf("changes ignored of a machine with data disk (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"cdrom.enabled", "disks[0].speed"}, recording.Resource(t, vmType, "gpu").Request.GetIgnoreChanges()); diff != "" {
		t.Errorf("changes ignored of a machine without data disk (-want +got):\n%s", diff)
	}
	for _, path := range []string{"efiDisk", "tpmState"} {
		if !slices.Contains(vm.Request.GetReplaceOnChanges(), path) {
			t.Errorf("a change of %s would go through in place and cost the node", path)
		}
	}

	machineSecrets := recording.Resource(t, secretsType, "secrets").Request
	if diff := cmp.Diff([]string{"machineSecrets", "clientConfiguration"}, machineSecrets.GetAdditionalSecretOutputs()); diff != "" {
		t.Errorf("secret outputs of machine secrets (-want +got):\n%s", diff)
	}
	// A lower Talos version would make other secrets.
	if diff := cmp.Diff([]string{"talosVersion"}, machineSecrets.GetIgnoreChanges()); diff != "" {
		t.Errorf("changes ignored of machine secrets (-want +got):\n%s", diff)
	}

	install := recording.Resource(t, applyType, "cp-1-install")
	for _, property := range []string{"machineConfigurationInput", "clientConfiguration", "node", "endpoint", "applyMode"} {
		if !slices.Contains(install.Request.GetIgnoreChanges(), property) {
			t.Errorf("the first config would be applied again when %s changes", property)
		}
	}
	if diff := cmp.Diff([]string{vm.URN}, install.Request.GetReplaceWith()); diff != "" || install.Request.GetDeletedWith() != vm.URN {
		t.Errorf("install does not share the machine's fate: deleted with %s, replaced with (-want +got):\n%s", install.Request.GetDeletedWith(), diff)
	}
	if !slices.Contains(install.Request.GetDependencies(), vm.URN) {
		t.Error("install does not wait for its machine")
	}
	configure := recording.Resource(t, applyType, "cp-1-configure")
	if diff := cmp.Diff([]string{install.URN}, configure.Request.GetReplaceWith()); diff != "" || configure.Request.GetDeletedWith() != vm.URN {
		t.Errorf("configure does not share the machine's fate (-want +got):\n%s", diff)
	}
	if len(configure.Request.GetIgnoreChanges()) > 0 {
		t.Errorf("configure ignores %v: day 2 would change nothing", configure.Request.GetIgnoreChanges())
	}
	kubeconfig := recording.Resource(t, kubeType, "kubeconfig")
	if diff := cmp.Diff([]string{"bootstrap"}, kubeconfig.Request.GetHooks().GetBeforeCreate()); diff != "" {
		t.Errorf("hooks of the kubeconfig (-want +got):\n%s", diff)
	}
	if !slices.Contains(kubeconfig.Request.GetDependencies(), configure.URN) {
		t.Error("bootstrap does not wait for the first control plane's config")
	}
	bound := map[string]bool{}
	for _, r := range recording.Resources {
		for _, hook := range slices.Concat(r.Request.GetHooks().GetBeforeCreate(), r.Request.GetHooks().GetBeforeUpdate()) {
			bound[hook] = true
		}
	}
	for _, hook := range recording.Hooks {
		if !bound[hook] {
			t.Errorf("hook %s is bound to no resource", hook)
		}
	}
}

// TestSecretsStaySecret looks at everything that goes to the state: inputs, outputs of components, the stack's outputs.
func TestSecretsStaySecret(t *testing.T) {
	p := newProject(t, "three-plus-two")
	recording := p.must()
	for _, name := range []resource.PropertyKey{"kubeconfig", "talosconfig", "machineSecrets"} {
		if value, ok := recording.Stack[name]; !ok || !value.IsSecret() {
			t.Errorf("stack output %s: %v, want a secret", name, value)
		}
	}
	for _, name := range []resource.PropertyKey{"credentials", "endpoint", "schematic"} {
		if value, ok := recording.Stack[name]; !ok || value.ContainsSecrets() {
			t.Errorf("stack output %s: %v, want it in clear", name, value)
		}
	}
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	private := []string{mockKubeconfig, mockTalosconfig, mockConfig, bundle.Cluster.Secret, bundle.Cluster.ID, bundle.TrustdInfo.Token, "a2V5", "7d7d7d"}
	check := func(where string, values resource.PropertyMap) {
		clear := fmt.Sprint(inClear(resource.NewProperty(values)))
		for _, secret := range private {
			if strings.Contains(clear, strings.TrimSpace(secret)) {
				t.Errorf("%s shows %q in clear", where, secret)
			}
		}
	}
	check("the stack's outputs", recording.Stack)
	for _, r := range recording.Resources {
		check("inputs of "+r.URN, r.Inputs)
		check("outputs of "+r.URN, recording.Outputs[r.Name])
	}
	for _, line := range recording.Logs {
		check("log", resource.PropertyMap{"line": resource.NewProperty(line)})
	}
}

// inClear is a value without its secrets.
func inClear(value resource.PropertyValue) any {
	return value.MapRepl(nil, func(v resource.PropertyValue) (any, bool) { return "[secret]", v.IsSecret() })
}

func TestCredentialFiles(t *testing.T) {
	p := newProject(t, "single-node")
	recording := p.must()
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	plain := map[string]string{}
	for _, name := range []string{"kubeconfig.test.enc.yaml", "machine-secrets.test.enc.yaml", "talosconfig.test.enc.yaml"} {
		info, err := os.Stat(p.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		raw, err := sopsfile.Decrypt(p.path(name), p.keys())
		if err != nil {
			t.Fatal(err)
		}
		plain[name] = string(raw)
	}
	if plain["kubeconfig.test.enc.yaml"] != mockKubeconfig || plain["talosconfig.test.enc.yaml"] != mockTalosconfig {
		t.Errorf("the files hold %v", plain)
	}
	// The bundle is what `talosctl gen config --with-secrets` takes: nothing may be missing.
	p.write("bundle.yaml", plain["machine-secrets.test.enc.yaml"])
	loaded, err := secrets.LoadBundle(p.path("bundle.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Validate(); err != nil {
		t.Errorf("the bundle is not complete: %v", err)
	}
	if diff := cmp.Diff(bundle.Secrets, loaded.Secrets); diff != "" || loaded.Cluster.ID != bundle.Cluster.ID {
		t.Errorf("the bundle differs (-want +got):\n%s", diff)
	}
	want := []string{"kubeconfig.test.enc.yaml", "machine-secrets.test.enc.yaml", "talosconfig.test.enc.yaml"}
	var got []string
	for _, value := range recording.Stack["credentials"].ArrayValue() {
		got = append(got, value.StringValue())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output credentials (-want +got):\n%s", diff)
	}
	before := p.files()
	if _, err := p.deploy(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, p.files()); diff != "" {
		t.Errorf("a second up changed files (-before +after):\n%s", diff)
	}
}

func TestFailedExportFailsTheRun(t *testing.T) {
	p := newProject(t, "single-node")
	p.write("kubeconfig.test.enc.yaml", "mine: not encrypted\n")
	listenTalos(t, p.cluster())
	_, err := p.deploy()
	if err == nil || !strings.Contains(err.Error(), "kubeconfig.test.enc.yaml") {
		t.Errorf("error %v, want one about the file", err)
	}
}

func TestPreviewWritesNothing(t *testing.T) {
	for _, fixture := range []string{"single-node", "three-plus-two"} {
		p := newProject(t, fixture)
		before := p.files()
		p.preview = true
		recording, err := p.deploy() // no Talos answers: a preview that looks for one takes long and fails
		if err != nil {
			t.Fatal(err)
		}
		if len(recording.Resources) < 14 {
			t.Errorf("only %d resources", len(recording.Resources))
		}
		if diff := cmp.Diff(before, p.files()); diff != "" {
			t.Errorf("files changed (-before +after):\n%s", diff)
		}
	}
}

// TestDefectsRegisterNothing: what needs no network is checked first.
func TestDefectsRegisterNothing(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*project)
		want  []string
	}{
		{"configuration", func(p *project) { p.replace("vmId: 101", "vmId: 7") }, []string{"nodes.cp-1.vmId", "Pulumi.test.yaml"}},
		{"no secrets", func(p *project) { _ = os.Remove(p.path("secrets.enc.json")) }, []string{"secrets.enc.json"}},
		{"secrets in clear", func(p *project) { p.write("secrets.enc.json", `{"proxmox_api_token": "x"}`) }, []string{"secrets.enc.json", "not encrypted"}},
		{"no key", func(p *project) { _ = os.Remove(p.path(sopsfile.KeyFileName)) }, []string{"age"}},
		{"no CA file", func(p *project) {
			p.replace("endpoint: https://pve.example.com:8006", "endpoint: https://pve.example.com:8006\n    tls: {caFile: ca.pem}")
		}, []string{"proxmox.tls.caFile", "does not exist"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newProject(t, "single-node")
			test.spoil(p)
			recording, err := p.deploy()
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
			if len(recording.Resources) > 0 {
				t.Errorf("registered %v", tree(recording.Resources))
			}
		})
	}
}
