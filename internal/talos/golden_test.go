package talos

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/validation"

	cloudlab "cloudlab/internal/config"
	"cloudlab/internal/sopsfile"
)

var update = flag.Bool("update", false, "write the golden files")

const testSchematic = "c23d16533980fd972f96a79cc22130404615c16de18f43da4a40d801d4fe8d6a"

// metal is the mode in which a virtual machine validates its config: with an install section.
type metal struct{}

func (metal) String() string        { return "metal" }
func (metal) RequiresInstall() bool { return true }
func (metal) InContainer() bool     { return false }

var _ validation.RuntimeMode = metal{}

// fixture is one of config's valid stack files.
type fixture struct {
	name    string
	cluster *cloudlab.Cluster
}

func fixtures(t *testing.T) []fixture {
	t.Helper()
	paths, err := filepath.Glob("../config/testdata/valid/*.yaml")
	if err != nil || len(paths) < 6 {
		t.Fatalf("valid stack files: %d, %v", len(paths), err)
	}
	var all []fixture
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cluster, err := cloudlab.ParseStackFile(raw)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, fixture{strings.TrimSuffix(filepath.Base(path), ".yaml"), cluster})
	}
	return all
}

func (f fixture) installer() string {
	return fmt.Sprintf("%s/metal-installer-secureboot/%s:%s", f.cluster.Image.Factory.Host, f.schematic(), f.cluster.TalosVersion)
}

func (f fixture) schematic() string {
	if f.cluster.Image.Schematic != "" {
		return f.cluster.Image.Schematic
	}
	return testSchematic
}

// throwAway are secrets that live as long as the test binary.
var throwAway = sync.OnceValues(func() (*secrets.Bundle, error) {
	return secrets.NewBundle(secrets.NewFixedClock(time.Now()), config.TalosVersion1_13)
})

// complete is the machine config as the provider makes it: generated, then patched.
func complete(t *testing.T, f fixture, node cloudlab.Node) config.Provider {
	t.Helper()
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	contract, err := config.ParseContractFromVersion(f.cluster.TalosVersion)
	if err != nil {
		t.Fatal(err)
	}
	input, err := generate.NewInput(f.cluster.Name, f.cluster.Endpoint.String(), strings.TrimPrefix(f.cluster.KubernetesVersion, "v"),
		generate.WithVersionContract(contract), generate.WithSecretsBundle(bundle))
	if err != nil {
		t.Fatal(err)
	}
	kind, err := machine.ParseType(string(node.Role))
	if err != nil {
		t.Fatal(err)
	}
	generated, err := input.Config(kind)
	if err != nil {
		t.Fatal(err)
	}
	texts, err := patchTexts(f.cluster, node, f.installer())
	if err != nil {
		t.Fatal(err)
	}
	patches, err := configpatcher.LoadPatches(texts)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := configpatcher.Apply(configpatcher.WithConfig(generated), patches)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := patched.Config()
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

// TestMachineConfigs shows what every valid configuration makes of every node, and that Talos takes it.
func TestMachineConfigs(t *testing.T) {
	for _, f := range fixtures(t) {
		for _, node := range f.cluster.Nodes {
			t.Run(f.name+"/"+node.Name, func(t *testing.T) {
				patches, err := Patches(f.cluster, node, f.installer())
				if err != nil {
					t.Fatal(err)
				}
				var text strings.Builder
				for _, patch := range patches {
					fmt.Fprintf(&text, "--- # %s\n%s", patch.Name, patch.YAML)
				}
				golden(t, filepath.Join("testdata", f.name, node.Name+".patches.yaml"), text.String())

				provider := complete(t, f, node)
				warnings, err := provider.Validate(metal{}, validation.WithStrict())
				if err != nil {
					t.Errorf("Talos refuses the config: %v", err)
				}
				if len(warnings) > 0 {
					t.Errorf("Talos warns about the config: %v", warnings)
				}
				golden(t, filepath.Join("testdata", f.name, node.Name+".config.yaml"), redacted(t, provider))
			})
		}
	}
}

// redacted is the config without what is secret or differs from run to run.
func redacted(t *testing.T, provider config.Provider) string {
	t.Helper()
	const secret = "<secret>"
	raw, err := provider.RedactSecrets(secret).EncodeBytes(encoder.WithComments(encoder.CommentsDisabled))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	// Keys are written in base64, what replaces them too.
	raw = bytes.ReplaceAll(raw, []byte(base64.StdEncoding.EncodeToString([]byte(secret))), []byte(secret))
	for name, public := range map[string][]byte{
		"<Talos CA>": bundle.Certs.OS.Crt, "<Kubernetes CA>": bundle.Certs.K8s.Crt,
		"<aggregator CA>": bundle.Certs.K8sAggregator.Crt, "<etcd CA>": bundle.Certs.Etcd.Crt,
	} {
		raw = bytes.ReplaceAll(raw, []byte(base64.StdEncoding.EncodeToString(public)), []byte(name))
	}
	raw = bytes.ReplaceAll(raw, []byte(bundle.Cluster.ID), []byte("<cluster ID>"))
	return string(raw)
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if findings := sopsfile.Scan(path, []byte(got)); len(findings) > 0 {
		t.Fatalf("a secret would be written: %v", findings)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update accepts it:\n%s", path, diff)
	}
}

// TestGoldenFilesAreUsed finds what a renamed fixture leaves behind.
func TestGoldenFilesAreUsed(t *testing.T) {
	used := map[string]bool{}
	for _, f := range fixtures(t) {
		for _, node := range f.cluster.Nodes {
			used[filepath.Join("testdata", f.name, node.Name+".patches.yaml")] = true
			used[filepath.Join("testdata", f.name, node.Name+".config.yaml")] = true
		}
	}
	paths, err := filepath.Glob("testdata/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if !used[path] {
			t.Errorf("%s belongs to no fixture: remove it", path)
		}
	}
}
