package toolchain

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRules(t *testing.T) {
	tests := []struct {
		rule          Rule
		pinned, found string
		want          bool
	}{
		{SamePatch, "v6.18.1", "v6.18.1", true},
		{SamePatch, "v6.18.1", "v6.18.2", false},
		{SameMinor, "v3.259.0", "v3.259.0", true},
		{SameMinor, "v3.259.0", "v3.259.4", true},
		{SameMinor, "v3.259.1", "v3.259.0", false},
		{SameMinor, "v3.259.0", "v3.260.0", false},
		{SameMinor, "v3.259.0", "v3.259.1-alpha.0", false},
		{SameMajor, "v1.3.2", "v1.4.0", true},
		{SameMajor, "v1.3.2", "v1.3.1", false},
		{SameMajor, "v1.3.2", "v2.0.0", false},
		{SameMajor, "v1.3.2", "", false},
		{SameMajor, "v1.3.2", "(devel)", false},
	}
	for _, test := range tests {
		if got := test.rule.accepts(test.pinned, test.found); got != test.want {
			t.Errorf("rule %d: pinned %s, found %q: %t, want %t", test.rule, test.pinned, test.found, got, test.want)
		}
	}
}

func TestFindVersion(t *testing.T) {
	tests := map[string]string{
		"v3.259.0\n": "v3.259.0",
		"sops 3.13.3\n[warning] something (4.0.0)": "v3.13.3",
		"Client:\nTalos v1.13.0\n":                 "v1.13.0",
		"v3.259.1-alpha.1700\n":                    "v3.259.1-alpha.1700",
		"(devel)\n":                                "",
		"1.3":                                      "",
	}
	for output, want := range tests {
		if got := findVersion(output); got != want {
			t.Errorf("version in %q: %q, want %q", output, got, want)
		}
	}
}

func TestInstalledCommand(t *testing.T) {
	tests := []struct {
		name, script string
		change       func(o *Options)
		want         Source
	}{
		{name: "right version", script: "#!/bin/sh\necho hello $1 v1.2.5\n", want: Installed},
		{name: "old version", script: "#!/bin/sh\necho v1.2.2\n", want: Built},
		{name: "next minor", script: "#!/bin/sh\necho v1.3.0\n", want: Built},
		{name: "no version", script: "#!/bin/sh\necho hello\n", want: Built},
		{name: "fails", script: "#!/bin/sh\necho v1.2.3\nexit 1\n", want: Built},
		{
			name: "not asked", script: "#!/bin/sh\necho v1.2.3\n",
			change: func(o *Options) { o.NoInstalled = true }, want: Built,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o, tool := project(t, helloSource)
			tool.Probe, tool.Accept = []string{"version"}, SameMinor
			bin := t.TempDir()
			write(t, filepath.Join(bin, "hello"), test.script, 0o755)
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			if test.change != nil {
				test.change(&o)
			}
			got := ensureOne(t, o, tool)
			if got.Source != test.want {
				t.Fatalf("the tool is %+v, want it %s", got, test.want)
			}
			if got.Source == Installed && (got.Path != filepath.Join(bin, "hello") || got.Version != "v1.2.5") {
				t.Errorf("installed: %+v", got)
			}
		})
	}
}

func TestInstalledToolNeedsNoGo(t *testing.T) {
	o, tool := project(t, helloSource)
	tool.Probe = []string{"version"}
	bin := t.TempDir()
	write(t, filepath.Join(bin, "hello"), "#!/bin/sh\necho v1.2.3\n", 0o755)
	t.Setenv("PATH", bin)
	if got := ensureOne(t, o, tool); got.Source != Installed {
		t.Errorf("the tool is %+v", got)
	}
}

func TestInstalledPlugin(t *testing.T) {
	const plugin = "plugins/resource-hello-v1.2.3/pulumi-resource-hello"
	tests := []struct {
		name string
		lay  func(t *testing.T, home string)
		want bool
	}{
		{"complete", func(t *testing.T, home string) {
			write(t, filepath.Join(home, plugin), "#!/bin/sh\n", 0o755)
		}, true},
		{"half installed", func(t *testing.T, home string) {
			write(t, filepath.Join(home, plugin), "#!/bin/sh\n", 0o755)
			write(t, filepath.Join(home, "plugins/resource-hello-v1.2.3.partial"), "", 0o644)
		}, false},
		{"other version", func(t *testing.T, home string) {
			write(t, filepath.Join(home, "plugins/resource-hello-v1.2.4/pulumi-resource-hello"), "#!/bin/sh\n", 0o755)
		}, false},
		{"not executable", func(t *testing.T, home string) {
			write(t, filepath.Join(home, plugin), "#!/bin/sh\n", 0o644)
		}, false},
		{"none", func(*testing.T, string) {}, false},
	}
	tool := Tool{Name: "pulumi-resource-hello", Plugin: "hello", Version: "v1.2.3"}
	for _, test := range tests {
		for _, variable := range []string{"PULUMI_HOME", "HOME"} {
			t.Run(test.name+" in "+variable, func(t *testing.T) {
				home := t.TempDir()
				t.Setenv("PULUMI_HOME", "")
				t.Setenv(variable, home)
				if variable == "HOME" {
					home = filepath.Join(home, ".pulumi")
				}
				test.lay(t, home)
				got, ok := findInstalled(t.Context(), tool)
				if ok != test.want {
					t.Fatalf("found: %t, want %t", ok, test.want)
				}
				if ok && got.Path != filepath.Join(home, plugin) {
					t.Errorf("found %s", got.Path)
				}
			})
		}
	}
}
