package toolchain

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/pulumi/pulumi/sdk/v3/go/common/workspace"
)

func TestPulumiHome(t *testing.T) {
	o, tool := project(t, helloSource)
	plugin := tool
	plugin.Name, plugin.Plugin = "pulumi-resource-hello", "hello"
	bin := t.TempDir()
	write(t, filepath.Join(bin, "installed"), "#!/bin/sh\necho v1.0.0\n", 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	installed := Tool{Name: "installed", Version: "v1.0.0"}

	set, err := ensure(t.Context(), o, []Tool{tool, plugin, installed})
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.TempDir(), "home")
	write(t, filepath.Join(home, "plugins/resource-hello-v1.2.3.partial"), "", 0o644)
	for range 2 { // the second time changes nothing
		if err := set.PulumiHome(home); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"bin/hello", "bin/installed", "plugins/resource-hello-v1.2.3/pulumi-resource-hello",
		}
		if d := cmp.Diff(want, filesBelow(t, home)); d != "" {
			t.Errorf("home (-want +got):\n%s", d)
		}
	}
	link, err := os.Readlink(filepath.Join(home, "bin/installed"))
	if err != nil || link != filepath.Join(bin, "installed") {
		t.Errorf("the installed tool is a link to %q, %v", link, err)
	}
	// What was built outlives the cache.
	if err := os.RemoveAll(o.Cache); err != nil {
		t.Fatal(err)
	}
	if got := output(t, filepath.Join(home, "bin/hello")); got != "hello v1.2.3\n" {
		t.Errorf("hello prints %q", got)
	}

	// A new build takes the place of the old one.
	tool.Version = "v1.2.4"
	set, err = ensure(t.Context(), o, []Tool{tool})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.PulumiHome(home); err != nil {
		t.Fatal(err)
	}
	if got := output(t, filepath.Join(home, "bin/hello")); got != "hello v1.2.4\n" {
		t.Errorf("after an update hello prints %q", got)
	}
}

// The engine's own search must find the plugin in the home.
func TestEngineFindsPlugin(t *testing.T) {
	o, tool := project(t, helloSource)
	tool.Name, tool.Plugin = "pulumi-resource-hello", "hello"
	set, err := ensure(t.Context(), o, []Tool{tool})
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := set.PulumiHome(home); err != nil {
		t.Fatal(err)
	}
	for _, variable := range Environ(home) {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	plugins, err := workspace.GetPlugins()
	if err != nil {
		t.Fatal(err)
	}
	if len(plugins) != 1 {
		t.Fatalf("the engine sees %d plugins, want 1", len(plugins))
	}
	got := plugins[0]
	if got.Name != "hello" || got.Kind != apitype.ResourcePlugin || got.Version.String() != "1.2.3" {
		t.Errorf("the engine sees %+v", got)
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
