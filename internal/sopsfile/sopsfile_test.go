package sopsfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/getsops/sops/v3/version"
)

// project is a throw-away project directory with an operator, whose key is made for one test.
type project struct {
	t        *testing.T
	dir      string
	identity *age.X25519Identity
}

func newProject(t *testing.T) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir(), identity: newIdentity(t)}
	p.rules(p.identity.Recipient().String())
	return p
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// rules writes .sops.yaml for recipients.
func (p *project) rules(recipients ...string) {
	p.t.Helper()
	p.file(".sops.yaml", fmt.Sprintf(`creation_rules:
  - path_regex: \.enc\.(json|ya?ml)$
    age: %[1]s
  - path_regex: ^clusters/.*\.sops\.ya?ml$
    encrypted_regex: ^(data|stringData)$
    mac_only_encrypted: true
    age: %[1]s
`, strings.Join(recipients, ",")), 0o644)
}

func (p *project) path(name string) string { return filepath.Join(p.dir, name) }

func (p *project) file(name, content string, mode os.FileMode) string {
	p.t.Helper()
	path := p.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		p.t.Fatal(err)
	}
	return path
}

func (p *project) opts() Options { return Options{AgeKey: p.identity.String(), ProjectDir: p.dir} }

func (p *project) write(name, plain string) bool {
	p.t.Helper()
	changed, err := Write(p.t.Context(), p.path(name), []byte(plain), p.opts())
	if err != nil {
		p.t.Fatalf("Write(%s): %v", name, err)
	}
	return changed
}

func (p *project) read(name string) string {
	p.t.Helper()
	raw, err := os.ReadFile(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

// wantError checks the kind, the words that help, and that nothing secret is said.
func wantError(t *testing.T, err, kind error, words []string, secrets ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want kind %q", err, kind)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
	for _, secret := range secrets {
		for _, shown := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			if strings.Contains(shown, secret) {
				t.Errorf("error shows a secret: %s", strings.ReplaceAll(shown, secret, "<secret>"))
			}
		}
	}
}

func TestSopsVersionIsTheLibrarys(t *testing.T) {
	if sopsVersion != version.Version {
		t.Errorf("sopsVersion is %s, the library is %s", sopsVersion, version.Version)
	}
}

func TestRepositoryRules(t *testing.T) {
	rules, err := os.ReadFile("../../.sops.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Whoever uses the repository puts another recipient there; the paths stay.
	operator := newIdentity(t)
	rules = []byte(strings.ReplaceAll(string(rules), ExampleRecipient, operator.Recipient().String()))
	p := &project{t: t, dir: t.TempDir(), identity: operator}
	p.file(".sops.yaml", string(rules), 0o644)
	for name, partial := range map[string]bool{
		"secrets.enc.json":                         false,
		"secrets.enc.yaml":                         false,
		"secrets.enc.yml":                          false,
		"kubeconfig.cloudlab.enc.yaml":             false,
		"talosconfig.cloudlab.enc.yaml":            false,
		"machine-secrets.my-stack.enc.yaml":        false,
		"clusters/cloudlab/a/b/db.sops.yaml":       true,
		"clusters/base/traefik/dashboard.sops.yml": true,
	} {
		meta, err := ruleFor(p.path(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := meta.EncryptedRegex == "^(data|stringData)$" && meta.MACOnlyEncrypted; got != partial {
			t.Errorf("%s: encrypted in part = %t, want %t", name, got, partial)
		}
	}
	for _, name := range []string{"kubeconfig", "secrets.json", "clusters/cloudlab/app.yaml", "docs/db.sops.yaml"} {
		if _, err := ruleFor(p.path(name)); !errors.Is(err, ErrNoRule) {
			t.Errorf("%s: error %v, want ErrNoRule", name, err)
		}
	}
}
