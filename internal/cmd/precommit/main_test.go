package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// key is encoded by the test, so that this file itself is no finding.
func key() string {
	return base64.StdEncoding.EncodeToString([]byte("-----BEGIN EC " + "PRIVATE KEY-----\nno key\n-----END EC " + "PRIVATE KEY-----\n"))
}

func kubeconfig() string {
	return "apiVersion: v1\nkind: Config\nusers:\n- name: admin\n  user:\n    client-key-data: " + key() + "\n"
}

func TestRun(t *testing.T) {
	tests := map[string]struct {
		staged  map[string]string // what the index holds
		after   map[string]string // what the work tree holds by the time of the check
		args    []string
		refused string // a name that must be reported; empty when the commit is fine
	}{
		"nothing staged":                          {},
		"harmless files":                          {staged: map[string]string{"README.md": "hello\n", "a b.txt": "c\n"}},
		"plaintext kubeconfig":                    {staged: map[string]string{"notes.txt": kubeconfig()}, refused: "notes.txt"},
		"in a folder, with a blank":               {staged: map[string]string{"my notes/k.yaml": kubeconfig()}, refused: "my notes/k.yaml"},
		"work tree cleaned after staging":         {staged: map[string]string{"k.yaml": kubeconfig()}, after: map[string]string{"k.yaml": "gone\n"}, refused: "k.yaml"},
		"work tree dirtied after staging":         {staged: map[string]string{"k.yaml": "fine\n"}, after: map[string]string{"k.yaml": kubeconfig()}},
		"only the named files":                    {staged: map[string]string{"k.yaml": kubeconfig(), "b.txt": "b\n"}, args: []string{"b.txt"}},
		"a named file that is not in the index":   {staged: map[string]string{"b.txt": "b\n"}, args: []string{"deleted.txt", "b.txt"}},
		"named, among harmless and missing files": {staged: map[string]string{"k": kubeconfig(), "b": "b\n"}, args: []string{"b", "nope", "k"}, refused: "k"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			command(t, dir, "git", "init", "--quiet")
			write(t, dir, test.staged)
			command(t, dir, "git", "add", "--all")
			write(t, dir, test.after)

			var stderr bytes.Buffer
			err := run(t.Context(), dir, test.args, &stderr)
			if test.refused == "" {
				if err != nil {
					t.Fatalf("refused a good commit: %v\n%s", err, &stderr)
				}
				return
			}
			if !errors.Is(err, errRefused) {
				t.Fatalf("got error %v, want a refusal", err)
			}
			if !strings.Contains(stderr.String(), test.refused) {
				t.Errorf("report does not name %s: %s", test.refused, &stderr)
			}
			if strings.Contains(stderr.String(), key()) {
				t.Errorf("report repeats the secret: %s", &stderr)
			}
		})
	}
}

func TestRunOutsideARepository(t *testing.T) {
	t.Setenv("GIT_CEILING_DIRECTORIES", "/")
	err := run(t.Context(), t.TempDir(), nil, &bytes.Buffer{})
	if err == nil || errors.Is(err, errRefused) {
		t.Fatalf("got %v, want git's error", err)
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
