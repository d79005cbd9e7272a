package toolchain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const projectRoot = "../../.."

// requirements reads the versions that a go.mod of the project requires.
func requirements(t *testing.T, dir string) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(projectRoot, filepath.FromSlash(dir), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]string{}
	for _, require := range mod.Require {
		versions[require.Mod.Path] = require.Mod.Version
	}
	return versions
}

// A tool's version stands in three places: the table, the go.mod that builds it and, for what the program also imports
// or speaks to, the program's go.mod.
func TestPinsAgree(t *testing.T) {
	program := requirements(t, ".")
	tests := []struct {
		tool    Name
		module  string // that the tool comes from, in its own go.mod; empty for a plugin
		program string // the program's counterpart; empty when there is none of the same version
	}{
		{Pulumi, "github.com/pulumi/pulumi/pkg/v3", "github.com/pulumi/pulumi/sdk/v3"},
		{Proxmoxve, "", "github.com/muhlba91/pulumi-proxmoxve/sdk/v6"},
		{Talos, "", "github.com/pulumiverse/pulumi-talos/sdk"},
		{Talosctl, "github.com/siderolabs/talos", ""},
		{SOPS, "github.com/getsops/sops/v3", "github.com/getsops/sops/v3"},
		{Age, "filippo.io/age", "filippo.io/age"},
		{AgeKeygen, "filippo.io/age", "filippo.io/age"},
	}
	if len(tests) != len(Tools()) {
		t.Errorf("%d tools are checked, the table has %d", len(tests), len(Tools()))
	}
	for _, test := range tests {
		t.Run(string(test.tool), func(t *testing.T) {
			picked, err := pick(Tools(), []Name{test.tool})
			if err != nil {
				t.Fatal(err)
			}
			tool := picked[0]
			if test.module != "" {
				if got := requirements(t, tool.Module)[test.module]; got != tool.Version {
					t.Errorf("the table pins %s, %s/go.mod %s %s", tool.Version, tool.Module, test.module, got)
				}
			}
			if got := program[test.program]; test.program != "" && got != tool.Version {
				t.Errorf("the table pins %s, the program requires %s %s", tool.Version, test.program, got)
			}
			if tool.Plugin != "" {
				checkPluginVersion(t, tool)
			}
		})
	}
}

// checkPluginVersion looks for the version in the plugin's own sources.
func checkPluginVersion(t *testing.T, tool Tool) {
	t.Helper()
	dir := filepath.Join(projectRoot, filepath.FromSlash(tool.Module), tool.Package)
	files, err := filepath.Glob(filepath.Join(dir, "provider", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), `"`+strings.TrimPrefix(tool.Version, "v")+`"`) {
			return
		}
	}
	t.Errorf("the sources in %s do not say that this is %s", dir, tool.Version)
}

func TestTable(t *testing.T) {
	seen := map[Name]bool{}
	for _, tool := range Tools() {
		if seen[tool.Name] {
			t.Errorf("%s is in the table twice", tool.Name)
		}
		seen[tool.Name] = true
		if (tool.Plugin == "") == (len(tool.Probe) == 0) {
			t.Errorf("%s: either a plugin or a command with a probe", tool.Name)
		}
		if tool.Plugin != "" && string(tool.Name) != "pulumi-resource-"+tool.Plugin {
			t.Errorf("%s: the engine looks for pulumi-resource-%s", tool.Name, tool.Plugin)
		}
		if tool.Plugin != "" && tool.Accept != SamePatch {
			t.Errorf("%s: the engine asks for plugins by exact version", tool.Name)
		}
	}
}

func TestSafeFlags(t *testing.T) {
	tests := map[string]string{
		"":                                      "-buildvcs=false",
		"-mod=mod -modcacherw":                  "-buildvcs=false -modcacherw",
		"-p=1 -tags=x --modcacherw -race":       "-buildvcs=false -p=1 --modcacherw",
		"-ldflags=-s -buildvcs=true -trimpath ": "-buildvcs=false",
	}
	for flags, want := range tests {
		if got := safeFlags(flags); got != want {
			t.Errorf("GOFLAGS %q: kept %q, want %q", flags, got, want)
		}
	}
}

func TestNextStep(t *testing.T) {
	tool := Tool{Name: "hello", Module: "tools/hello", Package: "."}
	tests := map[string]string{
		"write /tmp/x: no space left on device":                                             "free disk space",
		`Get "https://proxy.golang.org/x": dial tcp: lookup proxy.golang.org: no such host`: "cannot be reached",
		"x: reading https://proxy.golang.org/x/@v/v1.zip: 403 Forbidden":                    "does not have this version",
		"missing go.sum entry for module providing package x":                               "run `go mod tidy` in tools/hello",
		"cannot find module providing package x: import lookup disabled by -mod=readonly":   "run `go mod tidy` in tools/hello",
		"go: updates to go.mod needed":                                                      "run `go mod tidy` in tools/hello",
		"verifying x@v1: checksum mismatch\nSECURITY ERROR":                                 "do not trust the proxy",
		"go: go.mod requires go >= 1.99 (running go 1.26; GOTOOLCHAIN=local)":               "GOTOOLCHAIN=auto",
		"x: /usr/lib/go/pkg/tool/linux_amd64/compile: signal: killed":                       "out of memory",
		"verifying x@v1: Get \"https://sum.golang.org/lookup/x\": dial tcp: i/o timeout":    "checksum database",
		"mkdir /cache/x: permission denied":                                                 "writable",
		"main.go:3:1: syntax error":                                                         "go build -o /dev/null .",
	}
	for output, want := range tests {
		if got := nextStep(tool, output); !strings.Contains(got, want) {
			t.Errorf("after %q: %q, want %q", output, got, want)
		}
	}
}

func TestFingerprintOfDependency(t *testing.T) {
	o, tool := project(t, helloSource)
	dir := filepath.Join(o.Root, "tools/hello")
	sum := func(tool Tool) string {
		t.Helper()
		sum, err := fingerprint(tool, dir, goEnvironment{GOVERSION: "go1.26"})
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	dependency := tool
	dependency.Package = "example.test/dependency/cmd"
	beforeLocal, before := sum(tool), sum(dependency)
	write(t, filepath.Join(dir, "main.go"), helloSource+"// changed\n", 0o644)
	if sum(tool) == beforeLocal {
		t.Error("a change of the tool's source goes unnoticed")
	}
	if sum(dependency) != before {
		t.Error("a tool from a dependency is built again though only its neighbour's source changed")
	}
	write(t, filepath.Join(dir, "go.sum"), "\n", 0o644)
	if sum(dependency) == before {
		t.Error("a change of go.sum goes unnoticed")
	}
}
