package repository

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"cloudlab/internal/sandbox/toolchain"
)

// mise is mise.toml.
type mise struct {
	MinVersion string            `toml:"min_version"`
	Tools      map[string]string `toml:"tools"`
	Env        map[string]string `toml:"env"`
	Tasks      map[string]task   `toml:"tasks"`
}

type task struct {
	Description string   `toml:"description"`
	Depends     []string `toml:"depends"`
	Confirm     string   `toml:"confirm"`
	Shell       string   `toml:"shell"`
	Raw         bool     `toml:"raw"`
	Run         any      `toml:"run"`
}

// commands returns the task's lines: `run` is a string or a list of strings.
func (k task) commands() (lines []string) {
	switch run := k.Run.(type) {
	case string:
		return []string{run}
	case []any:
		for _, line := range run {
			if line, ok := line.(string); ok {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func readMise(t *testing.T) mise {
	t.Helper()
	var m mise
	decoder := toml.NewDecoder(strings.NewReader(string(read(t, "mise.toml"))))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		t.Fatalf("mise.toml: %v", err)
	}
	return m
}

func TestTasks(t *testing.T) {
	m := readMise(t)
	want := []string{
		"build", "ci", "ci:preview", "config:decrypt", "config:export", "destroy", "flux:sops-key", "fmt", "lint", "preview",
		"refresh", "sandbox", "setup", "test", "trust", "up",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(m.Tasks))); diff != "" {
		t.Errorf("tasks (-want +got):\n%s", diff)
	}
	// What a task runs: a package of this repository, a script of it, or a pinned tool.
	ownPackage := regexp.MustCompile(`go run \./([\w./-]+)`)
	ownScript := regexp.MustCompile(`^bash ([\w./-]+)$`)
	present := files(t)
	for name, task := range m.Tasks {
		if task.Description == "" {
			t.Errorf("task %s: no description", name)
		}
		for _, dependency := range task.Depends {
			if _, ok := m.Tasks[dependency]; !ok {
				t.Errorf("task %s depends on %s, which is no task", name, dependency)
			}
		}
		if len(task.commands()) == 0 {
			t.Errorf("task %s runs nothing", name)
		}
		for _, line := range task.commands() {
			if match := ownPackage.FindStringSubmatch(line); match != nil && !slices.Contains(present, match[1]+"/main.go") {
				t.Errorf("task %s runs ./%s, which is no command", name, match[1])
			}
			if match := ownScript.FindStringSubmatch(line); match != nil && !slices.Contains(present, match[1]) {
				t.Errorf("task %s runs %s, which does not exist", name, match[1])
			}
			if strings.Contains(line, "pulumi ") && !slices.Contains(task.Depends, "build") {
				t.Errorf("task %s runs a stale program: Pulumi.yaml runs bin/cloudlab, so depend on build", name)
			}
		}
	}
	if m.Tasks["destroy"].Confirm == "" {
		t.Error("task destroy asks nobody")
	}
}

func TestEnvironmentIsInsideTheRepository(t *testing.T) {
	m := readMise(t)
	want := map[string]string{
		"SOPS_AGE_KEY_FILE": "{{config_root}}/.age-key.txt",
		"KUBECONFIG":        "{{config_root}}/kubeconfig",
		"TALOSCONFIG":       "{{config_root}}/talosconfig",
	}
	for name, value := range want {
		if m.Env[name] != value {
			t.Errorf("env %s: got %q, want %q", name, m.Env[name], value)
		}
	}
}

func module(t *testing.T, name string) *modfile.File {
	t.Helper()
	file, err := modfile.Parse(name, read(t, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// required returns the version of a module in a go.mod, without its leading v.
func required(t *testing.T, file, name string) string {
	t.Helper()
	for _, require := range module(t, file).Require {
		if require.Mod.Path == name {
			return strings.TrimPrefix(require.Mod.Version, "v")
		}
	}
	t.Errorf("%s does not require %s", file, name)
	return ""
}

func TestToolsArePinned(t *testing.T) {
	exact := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	for name, version := range readMise(t).Tools {
		if !exact.MatchString(version) {
			t.Errorf("mise.toml: %s = %q, want an exact version", name, version)
		}
	}
}

// TestVersionsAgree compares versions that stand in more than one place.
func TestVersionsAgree(t *testing.T) {
	tools := readMise(t).Tools
	for _, test := range []struct{ tool, file, module string }{
		{"pulumi", "go.mod", "github.com/pulumi/pulumi/sdk/v3"},
		{"pulumi", "internal/tools/pulumi/go.mod", "github.com/pulumi/pulumi/pkg/v3"},
		{"sops", "go.mod", "github.com/getsops/sops/v3"},
		{"age", "go.mod", "filippo.io/age"},
		{"golangci-lint", "internal/tools/lint/go.mod", "github.com/golangci/golangci-lint/v2"},
	} {
		if got := required(t, test.file, test.module); got != tools[test.tool] {
			t.Errorf("mise.toml: %s = %q, but %s requires %s %s", test.tool, tools[test.tool], test.file, test.module, got)
		}
	}
	chain := map[string]toolchain.Tool{}
	for _, tool := range toolchain.Tools() {
		chain[string(tool.Name)] = tool
	}
	for _, name := range []string{"pulumi", "sops", "age"} {
		if got := strings.TrimPrefix(chain[name].Version, "v"); got != tools[name] {
			t.Errorf("mise.toml: %s = %q, but the tool chain builds %q", name, tools[name], got)
		}
	}
	// The module of talosctl lags behind its releases; what was built speaks to the same line of Talos.
	if built := chain["talosctl"].Version; semver.MajorMinor(built) != semver.MajorMinor("v"+tools["talosctl"]) || semver.Compare(built, "v"+tools["talosctl"]) > 0 {
		t.Errorf("mise.toml: talosctl = %q, but the tool chain builds %q", tools["talosctl"], built)
	}
	for plugin, sdk := range map[string]string{
		"pulumi-resource-proxmoxve": "github.com/muhlba91/pulumi-proxmoxve/sdk/v6",
		"pulumi-resource-talos":     "github.com/pulumiverse/pulumi-talos/sdk",
	} {
		if got := "v" + required(t, "go.mod", sdk); got != chain[plugin].Version {
			t.Errorf("go.mod requires %s %s, but the tool chain builds %s %q", sdk, got, plugin, chain[plugin].Version)
		}
	}
	for tool, constant := range map[string]string{"talosctl": "defaultTalos", "kubectl": "defaultKubernetes"} {
		pattern := regexp.MustCompile(constant + `\s*=\s*"v([0-9.]+)"`)
		match := pattern.FindSubmatch(read(t, "internal/config/versions.go"))
		if match == nil || string(match[1]) != tools[tool] {
			t.Errorf("mise.toml: %s = %q, but internal/config/versions.go has %s = %q", tool, tools[tool], constant, match)
		}
	}
	language, _, _ := strings.Cut(strings.TrimPrefix(tools["go"], "1."), ".")
	for _, name := range files(t) {
		if path.Base(name) != "go.mod" {
			continue
		}
		directive := module(t, name).Go
		if directive == nil || !strings.HasPrefix(directive.Version+".", "1."+language+".") {
			t.Errorf("%s: go %+v, want the language version of mise.toml's go %s", name, directive, tools["go"])
		}
	}
}

func TestHooks(t *testing.T) {
	type job struct {
		Name       string   `yaml:"name"`
		Run        string   `yaml:"run"`
		Glob       string   `yaml:"glob"`
		Exclude    []string `yaml:"exclude"`
		StageFixed bool     `yaml:"stage_fixed"`
	}
	type hook struct {
		Parallel bool  `yaml:"parallel"`
		Jobs     []job `yaml:"jobs"`
	}
	var hooks map[string]hook
	decoder := yaml.NewDecoder(strings.NewReader(string(read(t, "lefthook.yml"))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&hooks); err != nil {
		t.Fatalf("lefthook.yml: %v", err)
	}
	got := map[string][]string{}
	for name, hook := range hooks {
		for _, job := range hook.Jobs {
			got[name] = append(got[name], job.Name)
			// mise is a convenience: a clone with Go alone must be able to commit.
			if !strings.HasPrefix(job.Run, "go ") {
				t.Errorf("hook %s, job %s: %q needs more than Go", name, job.Name, job.Run)
			}
		}
	}
	want := map[string][]string{
		"pre-commit": {"secrets", "format", "lint", "modules"},
		"commit-msg": {"message"},
		"pre-push":   {"tests"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	if glob := hooks["pre-commit"].Jobs[0].Glob; glob != "" {
		t.Errorf("the secrets job looks at %s only; a secret hides under any name", glob)
	}
}
