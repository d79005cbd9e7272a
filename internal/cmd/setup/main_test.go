package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"cloudlab/internal/sopsfile"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func setup(t *testing.T, dir string) string {
	t.Helper()
	var stderr bytes.Buffer
	if err := run(dir, ".age-key.txt", created, &stderr); err != nil {
		t.Fatal(err)
	}
	return stderr.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestFirstRunMakesKeyAndEntersRecipient(t *testing.T) {
	dir := t.TempDir()
	rules := "# rules\ncreation_rules:\n  - path_regex: a\n    age: " + sopsfile.ExampleRecipient + " # you\n  - path_regex: b\n    age: " + sopsfile.ExampleRecipient + "\n"
	if err := os.WriteFile(filepath.Join(dir, ".sops.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	report := setup(t, dir)

	path := filepath.Join(dir, ".age-key.txt")
	key := read(t, path)
	identities, err := age.ParseIdentities(strings.NewReader(key))
	if err != nil || len(identities) != 1 {
		t.Fatalf("key file: %d identities, %v", len(identities), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: mode %v, %v; want 0600", info.Mode().Perm(), err)
	}
	recipient := identities[0].(*age.X25519Identity).Recipient().String()
	if got, want := read(t, filepath.Join(dir, ".sops.yaml")), strings.ReplaceAll(rules, sopsfile.ExampleRecipient, recipient); got != want {
		t.Errorf(".sops.yaml:\n%s\nwant:\n%s", got, want)
	}
	for _, want := range []string{"created the age key", "Left to do", "sops edit secrets.enc.json", "pulumi login"} {
		if !strings.Contains(report, want) {
			t.Errorf("report lacks %q:\n%s", want, report)
		}
	}
	if strings.Contains(report, "AGE-SECRET-KEY") {
		t.Errorf("report shows the key:\n%s", report)
	}

	again := setup(t, dir)
	if read(t, path) != key {
		t.Error("a second run replaced the key")
	}
	if strings.Contains(again, "created") || !strings.Contains(again, "✔ recipient in .sops.yaml") {
		t.Errorf("second run says:\n%s", again)
	}
}

func TestKeyReadableByOthersIsClosed(t *testing.T) {
	dir := t.TempDir()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ".age-key.txt")
	for name, content := range map[string]string{path: identity.String() + "\n", filepath.Join(dir, ".sops.yaml"): "creation_rules:\n  - age: someone-else\n"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	report := setup(t, dir)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: mode %v, %v; want 0600", info.Mode().Perm(), err)
	}
	if !strings.Contains(report, "must add "+identity.Recipient().String()) || !strings.Contains(report, "sops updatekeys") {
		t.Errorf("report does not say how to join:\n%s", report)
	}
}

func TestDefects(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"no .sops.yaml":  {nil, ".sops.yaml: no such file"},
		"key is no key":  {map[string]string{".age-key.txt": "hello\n"}, "move the file away to get a new key"},
		"key file empty": {map[string]string{".age-key.txt": ""}, "move the file away to get a new key"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := run(dir, ".age-key.txt", created, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestRepositoryRules shows that setup turns the .sops.yaml of this repository into one that encrypts for the operator.
func TestRepositoryRules(t *testing.T) {
	rules := read(t, "../../../.sops.yaml")
	if !strings.Contains(rules, sopsfile.ExampleRecipient) {
		t.Skip("this clone has an operator already")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".sops.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	setup(t, dir)
	options := sopsfile.FromEnvironment(dir, func(string) string { return "" })
	file := filepath.Join(dir, "kubeconfig.cloudlab.enc.yaml")
	if _, err := sopsfile.Write(t.Context(), file, []byte("apiVersion: v1\n"), options); err != nil {
		t.Fatal(err)
	}
	if plain, err := sopsfile.Decrypt(file, options); err != nil || string(plain) != "apiVersion: v1\n" {
		t.Errorf("decrypted %q, %v", plain, err)
	}
}
