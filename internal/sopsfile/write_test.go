package sopsfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const kubeconfigYAML = `# written by the program
apiVersion: v1
kind: Config
clusters:
  - name: cloudlab # the only one
    cluster:
      server: https://192.0.2.10:6443
      certificate-authority-data: Q0E=
users:
  - name: admin@cloudlab
    user: {client-certificate-data: QQ==, client-key-data: c2VjcmV0a2V5}
preferences: {}
empty: ""
nothing: null
number: 42
ratio: 1.50
flag: true
text: |
  two
  lines
`

func TestRoundTrip(t *testing.T) {
	for name, plain := range map[string]string{
		"kubeconfig.cloudlab.enc.yaml": kubeconfigYAML,
		"several.enc.yml":              "a: 1\n---\nb: 2\n",
		"secrets.enc.json":             `{"a": {"b": [1, 2.5, "x", true, null, 12345678901234567]}, "empty": ""}`,
		"dates.enc.yaml":               "when: 2026-01-02T03:04:05Z\nquoted: \"2026-01-02\"\nyes: \"yes\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			if !p.write(name, plain) {
				t.Error("a new file is no change")
			}
			raw := p.read(name)
			for _, clear := range []string{"192.0.2.10", "c2VjcmV0a2V5", "the only one", "12345678901234567", "2026-01-02T03"} {
				if strings.Contains(strings.Split(raw, "lastmodified")[0], clear) {
					t.Errorf("%q stands in clear", clear)
				}
			}
			if err := CheckEncrypted(name, []byte(raw)); err != nil {
				t.Error(err)
			}
			got, err := Decrypt(p.path(name), p.opts())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(values(t, plain), values(t, string(got))); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			// Both what was given and what comes back count as unchanged.
			if p.write(name, plain) || p.write(name, string(got)) {
				t.Error("the same plaintext is a change")
			}
			if p.read(name) != raw {
				t.Error("unchanged file was rewritten")
			}
		})
	}
}

// values decodes every document; comments may move.
func values(t *testing.T, text string) []any {
	t.Helper()
	var all []any
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var doc any
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		all = append(all, doc)
	}
}

func TestUnchangedFileIsLeftAlone(t *testing.T) {
	p := newProject(t)
	const name = "kubeconfig.a.enc.yaml"
	p.write(name, kubeconfigYAML)
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(p.path(name), past, past); err != nil {
		t.Fatal(err)
	}
	before := stat(t, p.path(name))
	raw := p.read(name)
	if p.write(name, kubeconfigYAML) {
		t.Error("the same plaintext is a change")
	}
	after := stat(t, p.path(name))
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) || p.read(name) != raw {
		t.Error("the file was touched")
	}
	if !p.write(name, strings.Replace(kubeconfigYAML, "42", "43", 1)) {
		t.Error("another value is no change")
	}
	if os.SameFile(after, stat(t, p.path(name))) {
		t.Error("the changed file was written in place")
	}
}

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestMode(t *testing.T) {
	p := newProject(t)
	p.write("a.enc.yaml", "a: b\n")
	raw := p.read("a.enc.yaml")
	for _, plain := range []string{"a: b\n", "a: c\n"} { // unchanged, changed
		p.file("a.enc.yaml", raw, 0o644)
		p.write("a.enc.yaml", plain)
		if mode := stat(t, p.path("a.enc.yaml")).Mode().Perm(); mode != 0o600 {
			t.Errorf("after %q the mode is %04o", plain, mode)
		}
	}
}

func TestRuleChange(t *testing.T) {
	p := newProject(t)
	second := newIdentity(t)
	one, two := p.identity.Recipient().String(), second.Recipient().String()
	const plain = "a: b\n"
	p.write("a.enc.yaml", plain)

	p.rules(one, two)
	if !p.write("a.enc.yaml", plain) {
		t.Error("an added recipient is no change")
	}
	if got, err := Decrypt(p.path("a.enc.yaml"), Options{AgeKey: second.String()}); err != nil || string(got) != plain {
		t.Errorf("the new recipient reads %q, %v", got, err)
	}
	p.rules(two, one)
	if p.write("a.enc.yaml", plain) {
		t.Error("another order of recipients is a change")
	}
	p.rules(one)
	if !p.write("a.enc.yaml", plain) {
		t.Error("a removed recipient is no change")
	}
	if _, err := Decrypt(p.path("a.enc.yaml"), Options{AgeKey: second.String()}); !errors.Is(err, ErrIdentityMismatch) {
		t.Errorf("the removed recipient gets %v", err)
	}
	p.file(".sops.yaml", "creation_rules:\n  - {path_regex: enc, encrypted_regex: ^a$, age: "+one+"}\n", 0o644)
	if !p.write("a.enc.yaml", plain) {
		t.Error("another encrypted_regex is no change")
	}
}

func TestPartialRule(t *testing.T) {
	p := newProject(t)
	const name = "clusters/base/db.sops.yaml"
	p.file("clusters/base/x", "", 0o600)
	p.write(name, "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData:\n  password: hunter2\n")
	raw := p.read(name)
	if strings.Contains(raw, "hunter2") || !strings.Contains(raw, "name: db") || !strings.Contains(raw, "mac_only_encrypted: true") {
		t.Errorf("encrypted in part:\n%s", raw)
	}
	_, err := Write(t.Context(), p.path(name), []byte("apiVersion: v1\nkind: Config\nuser: hunter2\n"), p.opts())
	wantError(t, err, ErrBadRule, []string{"in clear", ".sops.yaml"}, "hunter2")
	if p.read(name) != raw {
		t.Error("the file was touched")
	}
}

func TestWriteWithoutIdentity(t *testing.T) {
	p := newProject(t)
	for range 2 {
		changed, err := Write(t.Context(), p.path("a.enc.json"), []byte(`{"a":"b"}`), Options{})
		if err != nil || !changed {
			t.Fatalf("changed %t, %v", changed, err)
		}
	}
	got, err := Decrypt(p.path("a.enc.json"), p.opts())
	if err != nil || string(got) != "{\n\t\"a\": \"b\"\n}\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// What cannot be decrypted is replaced, because the caller holds the truth.
func TestWriteReplacesUnreadableSopsFile(t *testing.T) {
	for name, spoil := range map[string]func(p *project){
		"for another recipient": func(p *project) {
			mine := p.identity
			p.identity = newIdentity(p.t)
			p.rules(p.identity.Recipient().String())
			p.write("a.enc.yaml", "a: old\n")
			p.identity = mine
			p.rules(mine.Recipient().String())
		},
		"tampered with": func(p *project) {
			p.write("a.enc.yaml", "a: b\nc: d\n")
			p.file("a.enc.yaml", strings.Replace(p.read("a.enc.yaml"), "a: ENC", "b: ENC", 1), 0o600)
		},
		"partly in clear": func(p *project) {
			p.write("a.enc.yaml", "a: b\n")
			p.file("a.enc.yaml", "c: d\n"+p.read("a.enc.yaml"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			spoil(p)
			if !p.write("a.enc.yaml", "a: b\n") {
				t.Error("no change")
			}
			if got, err := Decrypt(p.path("a.enc.yaml"), p.opts()); err != nil || string(got) != "a: b\n" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestWriteErrors(t *testing.T) {
	for _, tc := range []struct {
		name, file, plain string
		setup             func(p *project)
		kind              error
		words             []string
	}{
		{name: "no .sops.yaml", file: "a.enc.yaml", setup: func(p *project) {
			if err := os.Remove(p.path(".sops.yaml")); err != nil {
				p.t.Fatal(err)
			}
		}, kind: ErrNoRule, words: []string{".sops.yaml", "mise run setup"}},
		{name: "no rule for the file", file: "sub/a.yaml", kind: ErrNoRule, words: []string{".sops.yaml", "sub/a.yaml", "path_regex"}},
		{name: "empty rules", file: "a.enc.yaml", setup: func(p *project) { p.file(".sops.yaml", "stores: {}\n", 0o600) }, kind: ErrNoRule},
		{name: "broken rules", file: "a.enc.yaml", setup: func(p *project) { p.file(".sops.yaml", "creation_rules: {", 0o600) }, kind: ErrBadRule, words: []string{".sops.yaml"}},
		{name: "bad regex", file: "a.enc.yaml", setup: func(p *project) { p.file(".sops.yaml", "creation_rules: [{path_regex: '('}]", 0o600) }, kind: ErrBadRule},
		{name: "bad recipient", file: "a.enc.yaml", setup: func(p *project) { p.rules("age1nonsense") }, kind: ErrBadRule, words: []string{"age"}},
		{name: "no recipient", file: "a.enc.yaml", setup: func(p *project) { p.file(".sops.yaml", "creation_rules: [{path_regex: enc}]", 0o600) }, kind: ErrBadRule, words: []string{"no recipient"}},
		{name: "PGP", file: "a.enc.yaml", setup: func(p *project) {
			p.file(".sops.yaml", "creation_rules: [{pgp: FBC7B9E2A4F9289AC0C1D4843D16CEE4A27381B4}]", 0o600)
		}, kind: ErrBadRule, words: []string{"pgp", "age recipients only"}},
		{name: "example recipient", file: "a.enc.yaml", setup: func(p *project) { p.rules(ExampleRecipient) }, kind: ErrBadRule, words: []string{"example recipient", "mise run setup"}},
		{name: "not YAML", file: "a.enc.yaml", plain: "hunter2: [", kind: ErrMalformed, words: []string{"plaintext", "YAML"}},
		{name: "not a mapping", file: "a.enc.yaml", plain: "hunter2", kind: ErrMalformed, words: []string{"mapping"}},
		{name: "a JSON list", file: "a.enc.json", plain: `["hunter2"]`, kind: ErrMalformed, words: []string{"mapping"}},
		{name: "empty", file: "a.enc.yaml", plain: " ", kind: ErrMalformed, words: []string{"empty"}},
		{name: "encrypted already", file: "a.enc.yaml", plain: "a: hunter2\nsops: {}\n", kind: ErrMalformed, words: []string{"sops"}},
		{name: "extension", file: "a.enc.txt", setup: func(p *project) {
			p.file(".sops.yaml", "creation_rules: [{age: "+p.identity.Recipient().String()+"}]", 0o600)
		}, kind: ErrUnsupported, words: []string{".json"}},
		{name: "someone's plain file", file: "a.enc.yaml", setup: func(p *project) { p.file("a.enc.yaml", "mine: hunter2\n", 0o644) }, kind: ErrNotOurs, words: []string{"not a sops file", "move it away"}},
		{name: "someone's binary file", file: "a.enc.yaml", setup: func(p *project) { p.file("a.enc.yaml", "\x00\x01hunter2", 0o644) }, kind: ErrNotOurs},
		{name: "a directory", file: "a.enc.yaml", setup: func(p *project) { p.file("a.enc.yaml/x", "", 0o644) }, kind: ErrUnsupported, words: []string{"regular file"}},
		{name: "a symbolic link", file: "a.enc.yaml", setup: func(p *project) {
			if err := os.Symlink(p.file("elsewhere", "", 0o600), p.path("a.enc.yaml")); err != nil {
				p.t.Fatal(err)
			}
		}, kind: ErrUnsupported, words: []string{"regular file"}},
		{name: "no directory", file: "gone/a.enc.yaml", kind: ErrWrite, words: []string{"no such file", "intact"}},
		{name: "key file of others", file: "a.enc.yaml", setup: func(p *project) {
			p.write("a.enc.yaml", "a: b")
			p.file(KeyFileName, p.identity.String(), 0o644)
		}, kind: ErrKeyFileMode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t)
			if tc.setup != nil {
				tc.setup(p)
			}
			before := tree(t, p.dir)
			plain := tc.plain
			if plain == "" {
				plain = "a: hunter2\n"
			}
			changed, err := Write(t.Context(), p.path(tc.file), []byte(strings.TrimSpace(plain)), p.opts())
			if changed {
				t.Error("reported a change")
			}
			wantError(t, err, tc.kind, tc.words, "hunter2", p.identity.String())
			if diff := cmp.Diff(before, tree(t, p.dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
		})
	}
}

// tree lists a directory's files with their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		files[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCancelled(t *testing.T) {
	p := newProject(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, p.path("a.enc.yaml"), []byte("a: b"), p.opts()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(p.path("a.enc.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the file was written")
	}
}

func TestReplaceIsAtomic(t *testing.T) {
	full := func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of i"); err != nil {
			return err
		}
		return syscall.ENOSPC
	}
	fine := func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }
	for _, tc := range []struct {
		name  string
		setup func(p *project) string
		write func(io.Writer) error
		want  error
	}{
		{"disk fills up", func(p *project) string { return p.file("x", "old", 0o600) }, full, syscall.ENOSPC},
		{"rename fails", func(p *project) string { p.file("x/y", "old", 0o600); return p.path("x") }, fine, syscall.EEXIST},
		{"name too long for the temporary file", func(p *project) string { return p.file(strings.Repeat("x", 250), "old", 0o600) }, fine, syscall.ENAMETOOLONG},
		{"directory of others", func(p *project) string {
			if os.Geteuid() == 0 {
				p.t.Skip("root may write everywhere")
			}
			path := p.file("d/x", "old", 0o600)
			if err := os.Chmod(filepath.Dir(path), 0o500); err != nil {
				p.t.Fatal(err)
			}
			p.t.Cleanup(func() { _ = os.Chmod(filepath.Dir(path), 0o700) })
			return path
		}, fine, syscall.EACCES},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t)
			path := tc.setup(p)
			before := tree(t, p.dir)
			if err := replace(path, tc.write); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(before, tree(t, p.dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
		})
	}
}

// Writers and readers of one file never meet half a file, and no temporary file stays.
func TestConcurrentWrites(t *testing.T) {
	p := newProject(t)
	const name = "a.enc.yaml"
	p.write(name, "writer: -1\n")
	var wg sync.WaitGroup
	for writer := range 4 {
		wg.Go(func() {
			for range 5 {
				if _, err := Write(t.Context(), p.path(name), fmt.Appendf(nil, "writer: %d\n", writer), p.opts()); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				if plain, err := Decrypt(p.path(name), p.opts()); err != nil || !strings.HasPrefix(string(plain), "writer: ") {
					t.Errorf("%q, %v", plain, err)
				}
			}
		})
	}
	wg.Wait()
	if files := tree(t, p.dir); len(files) != 2 {
		t.Errorf("%d files stay, want 2", len(files))
	}
}
