package sopsfile

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

func TestIdentitiesOrder(t *testing.T) {
	p := newProject(t)
	var keys, public []string
	for range 4 {
		id := newIdentity(t)
		keys = append(keys, id.String())
		public = append(public, id.Recipient().String())
	}
	keyFile := p.file("elsewhere.txt", "# created: today\n# public key: "+public[1]+"\n"+keys[1]+"\r\n\n", 0o644)
	p.file(KeyFileName, keys[2]+"\n", 0o600)
	fallback := p.file("config/sops/age/keys.txt", keys[3], 0o600)

	all := Options{AgeKey: keys[0], AgeKeyFile: keyFile, ProjectDir: p.dir, DefaultKeyFile: fallback}
	for _, tc := range []struct {
		name string
		opts Options
		want []string
	}{
		{"every place, in order, the default file not needed", all, public[:3]},
		{"default file alone", Options{ProjectDir: t.TempDir(), DefaultKeyFile: fallback}, public[3:]},
		{"several keys in one variable", Options{AgeKey: keys[2] + " " + keys[0] + "\n" + keys[1]}, []string{public[2], public[0], public[1]}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ids, err := tc.opts.Identities()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, ids.Recipients()); diff != "" {
				t.Errorf("identities (-want +got):\n%s", diff)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				if strings.Contains(fmt.Sprintf(verb, ids), "AGE-SECRET-KEY") {
					t.Errorf("%s shows a private key", verb)
				}
			}
		})
	}
}

func TestIdentityKinds(t *testing.T) {
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	p := newProject(t)
	p.rules(hybrid.Recipient().String())
	opts := Options{AgeKey: hybrid.String()}
	if _, err := Write(t.Context(), p.path("a.enc.yaml"), []byte("a: b\n"), opts); err != nil {
		t.Fatal(err)
	}
	plain, err := Decrypt(p.path("a.enc.yaml"), opts)
	if err != nil || string(plain) != "a: b\n" {
		t.Errorf("post-quantum key: %q, %v", plain, err)
	}
}

func TestFromEnvironment(t *testing.T) {
	env := map[string]string{"SOPS_AGE_KEY": "k", "SOPS_AGE_KEY_FILE": "f", "XDG_CONFIG_HOME": "/cfg"}
	got := FromEnvironment("/project", func(name string) string { return env[name] })
	want := Options{AgeKey: "k", AgeKeyFile: "f", ProjectDir: "/project", DefaultKeyFile: "/cfg/sops/age/keys.txt"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestIdentityErrors(t *testing.T) {
	id := newIdentity(t)
	damaged := id.String()[:40] + "Q" + id.String()[41:]
	for _, tc := range []struct {
		name  string
		opts  func(p *project) Options
		kind  error
		words []string
	}{
		{"nowhere", func(p *project) Options {
			return Options{ProjectDir: p.dir, DefaultKeyFile: p.path("none/keys.txt")}
		}, ErrNoIdentity, []string{"SOPS_AGE_KEY,", "SOPS_AGE_KEY_FILE,", KeyFileName, "none/keys.txt", "mise run setup"}},
		{"nothing configured", func(*project) Options { return Options{} }, ErrNoIdentity, []string{"SOPS_AGE_KEY"}},
		{"damaged key", func(*project) Options { return Options{AgeKey: damaged} }, ErrBadIdentity, []string{"SOPS_AGE_KEY: line 1", "damaged"}},
		{"truncated key", func(*project) Options { return Options{AgeKey: id.String()[:50]} }, ErrBadIdentity, []string{"damaged"}},
		{"public key", func(*project) Options { return Options{AgeKey: id.Recipient().String()} }, ErrBadIdentity, []string{"public key"}},
		{"some text", func(*project) Options { return Options{AgeKey: "# a comment\nhunter2 secret"} }, ErrBadIdentity, []string{"line 2", "not an age identity"}},
		{"comments only", func(*project) Options { return Options{AgeKey: "# a comment"} }, ErrBadIdentity, []string{"holds no age identity"}},
		{"SSH key", func(p *project) Options {
			return Options{AgeKeyFile: p.file("id", "-----BEGIN OPENSSH "+"PRIVATE KEY-----\nhunter2", 0o600)}
		}, ErrBadIdentity, []string{"SSH"}},
		{"passphrase-protected", func(p *project) Options {
			return Options{AgeKeyFile: p.file("id", "-----BEGIN AGE ENCRYPTED FILE-----\nhunter2", 0o600)}
		}, ErrBadIdentity, []string{"passphrase"}},
		{"key file is missing", func(p *project) Options { return Options{AgeKeyFile: p.path("gone")} }, ErrBadIdentity, []string{"gone", "no such file", "SOPS_AGE_KEY_FILE"}},
		{"key file is a directory", func(p *project) Options { return Options{AgeKeyFile: p.dir} }, ErrBadIdentity, []string{"directory"}},
		{"empty key file", func(p *project) Options {
			p.file(KeyFileName, "", 0o600)
			return Options{ProjectDir: p.dir}
		}, ErrBadIdentity, []string{KeyFileName, "no age identity"}},
		{"readable by the group", func(p *project) Options {
			p.file(KeyFileName, id.String(), 0o640)
			return Options{ProjectDir: p.dir}
		}, ErrKeyFileMode, []string{"0640", "chmod 600"}},
		{"readable by the world", func(p *project) Options {
			p.file(KeyFileName, id.String(), 0o644)
			return Options{ProjectDir: p.dir, AgeKey: id.String()}
		}, ErrKeyFileMode, []string{"0644", "chmod 600"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t)
			_, err := tc.opts(p).Identities()
			wantError(t, err, tc.kind, tc.words, id.String(), damaged, "hunter2", id.String()[16:40])
		})
	}
}

// No other place may be looked at: sops' own library reads SSH keys and more from the environment.
func TestNoHiddenIdentities(t *testing.T) {
	p := newProject(t)
	p.write("a.enc.yaml", "a: b\n")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("SOPS_AGE_KEY", p.identity.String())
	if err := os.MkdirAll(home+"/sops/age", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/sops/age/keys.txt", []byte(p.identity.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Decrypt(p.path("a.enc.yaml"), Options{ProjectDir: p.dir})
	wantError(t, err, ErrNoIdentity, nil)
	_, err = Decrypt(p.path("a.enc.yaml"), Options{AgeKey: newIdentity(t).String()})
	wantError(t, err, ErrIdentityMismatch, nil)
}
