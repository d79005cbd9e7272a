package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"cloudlab/internal/sopsfile"
	"cloudlab/internal/term"
)

// project is a folder with .sops.yaml, a key and a state that says outputs.
type project struct {
	t       *testing.T
	dir     string
	outputs map[string]string
	problem error
	env     map[string]string
	asked   []string
}

func newProject(t *testing.T) *project {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, dir: t.TempDir(), env: map[string]string{}, outputs: map[string]string{
		"kubeconfig": "kind: Config\n", "talosconfig": "context: home\n", "machineSecrets": "cluster:\n    id: x\n", "endpoint": "https://192.0.2.11:6443",
	}}
	p.write("Pulumi.yaml", "name: cloudlab\n")
	p.write(sopsfile.KeyFileName, identity.String())
	p.write(".sops.yaml", fmt.Sprintf("creation_rules:\n  - path_regex: \\.enc\\.yaml$\n    age: %s\n", identity.Recipient()))
	return p
}

func (p *project) path(name string) string { return filepath.Join(p.dir, name) }

func (p *project) write(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) read(name string) string {
	p.t.Helper()
	raw, err := os.ReadFile(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

// run runs the command and returns what a person sees.
func (p *project) run(args ...string) (string, error) {
	var seen bytes.Buffer
	command := newCommand(&settings{
		people: term.New(&seen),
		getenv: func(name string) string { return p.env[name] },
		outputs: func(_ context.Context, dir, stack string) (map[string]string, error) {
			p.asked = append(p.asked, filepath.Base(dir)+"/"+stack)
			return p.outputs, p.problem
		},
	})
	command.SetArgs(args)
	command.SetOut(&seen)
	command.SetErr(&seen)
	err := command.ExecuteContext(p.t.Context())
	return seen.String(), err
}

func (p *project) must(args ...string) string {
	p.t.Helper()
	seen, err := p.run(append(args, "--dir", p.dir)...)
	if err != nil {
		p.t.Fatalf("%v: %v", args, err)
	}
	return seen
}

func TestExportAndDecrypt(t *testing.T) {
	p := newProject(t)
	const first = "✔ kubeconfig.home.enc.yaml written\n✔ machine-secrets.home.enc.yaml written\n✔ talosconfig.home.enc.yaml written\n"
	if seen := p.must("export", "--stack", "home"); seen != first {
		t.Errorf("first export says %q", seen)
	}
	before := p.read("kubeconfig.home.enc.yaml")
	if seen := p.must("export", "--stack", "home"); seen != strings.ReplaceAll(first, "written", "unchanged") {
		t.Errorf("second export says %q", seen)
	}
	if p.read("kubeconfig.home.enc.yaml") != before {
		t.Error("the second export changed a file")
	}

	if seen := p.must("decrypt", "--stack", "home"); seen != "✔ kubeconfig written\n✔ talosconfig written\n" {
		t.Errorf("first decrypt says %q", seen)
	}
	if err := os.Chmod(p.path("kubeconfig"), 0o644); err != nil {
		t.Fatal(err)
	}
	if seen := p.must("decrypt", "--stack", "home"); seen != "✔ kubeconfig unchanged\n✔ talosconfig unchanged\n" {
		t.Errorf("second decrypt says %q", seen)
	}
	p.outputs["kubeconfig"] = "kind: Other\n"
	p.must("export", "--stack", "home")
	if seen := p.must("decrypt", "--stack", "home"); seen != "✔ kubeconfig written\n✔ talosconfig unchanged\n" {
		t.Errorf("decrypt after a change says %q", seen)
	}
	for name, want := range map[string]string{"kubeconfig": "kind: Other\n", "talosconfig": "context: home\n"} {
		if got := p.read(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		info, err := os.Stat(p.path(name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", name, info.Mode(), err)
		}
	}
	// Nothing else is left behind, and the machine secrets stay encrypted.
	entries, err := os.ReadDir(p.dir)
	if err != nil || len(entries) != 8 {
		t.Errorf("files %v, %v", entries, err)
	}
	p.must("export", "--stack", "home")
}

func TestStackAndFolder(t *testing.T) {
	p := newProject(t)
	p.must("export")
	p.env[stackVariable] = "lab"
	p.must("export")
	p.must("export", "--stack", "home")
	below := p.path("a/b")
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(below)
	if _, err := p.run("export"); err != nil {
		t.Error(err)
	}
	name := filepath.Base(p.dir)
	want := []string{name + "/cloudlab", name + "/lab", name + "/home", name + "/lab"}
	if got := strings.Join(p.asked, " "); got != strings.Join(want, " ") {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name  string
		args  []string
		setup func(p *project)
		want  []string
	}{
		{"no project", []string{"export"}, func(p *project) { p.dir = p.t.TempDir() }, []string{"no Pulumi.yaml", "--dir"}},
		{"state without outputs", []string{"export"}, func(p *project) { p.outputs = nil }, []string{`stack "cloudlab"`, "run `up` first"}},
		{"one output is missing", []string{"export"}, func(p *project) { delete(p.outputs, "machineSecrets") }, []string{"machineSecrets", "run `up` first"}},
		{"no state", []string{"export"}, func(p *project) { p.problem = errors.New("no stack named 'cloudlab' found") }, []string{"no stack named"}},
		{"no rules", []string{"export"}, func(p *project) { _ = os.Remove(p.path(".sops.yaml")) }, []string{".sops.yaml", "mise run setup"}},
		{"nothing to decrypt", []string{"decrypt"}, nil, []string{"kubeconfig.cloudlab.enc.yaml does not exist", "mise run config:export"}},
		{"no key", []string{"decrypt"}, func(p *project) { p.must("export"); _ = os.Remove(p.path(sopsfile.KeyFileName)) }, []string{"age"}},
		{"stack with organization", []string{"decrypt", "--stack", "organization/cloudlab/x"}, nil, []string{"organization/cloudlab/x", "its name alone"}},
		{"unknown command", []string{"encrypt"}, nil, []string{"unknown command"}},
		{"argument too many", []string{"export", "x"}, nil, []string{"x"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newProject(t)
			if test.setup != nil {
				test.setup(p)
			}
			_, err := p.run(append(test.args, "--dir", p.dir)...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if _, statErr := os.Stat(p.path("kubeconfig")); statErr == nil {
				t.Error("a credential was written")
			}
		})
	}
}

// TestPulumiOutputs runs a command called pulumi that answers as the real one does.
func TestPulumiOutputs(t *testing.T) {
	tests := []struct {
		name, script string
		want         string
		problem      []string
	}{
		{
			name: "outputs", script: `echo "{\"kubeconfig\": \"$*|$(basename "$PWD")\", \"credentials\": [\"a\"]}"`,
			want: "stack output --json --show-secrets --non-interactive --stack home|project",
		},
		{name: "no stack", script: `echo "error: no stack named 'home' found" >&2; exit 255`, problem: []string{`stack "home"`, "no stack named"}},
		{name: "no JSON", script: `echo hunter2`, problem: []string{"JSON"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "project")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(bin, "pulumi"), []byte("#!/bin/sh\n"+test.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			outputs, err := pulumiOutputs(t.Context(), dir, "home")
			if len(test.problem) == 0 {
				if err != nil || outputs["kubeconfig"] != test.want || len(outputs) != 1 {
					t.Errorf("outputs %q, %v, want %q", outputs, err, test.want)
				}
				return
			}
			for _, want := range test.problem {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %v, want %q and no output", err, want)
				}
			}
		})
	}
	t.Run("not installed", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := pulumiOutputs(t.Context(), t.TempDir(), "home"); err == nil || !strings.Contains(err.Error(), "mise install") {
			t.Errorf("error %v, want the way to install it", err)
		}
	})
}
