package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/sopsfile"
)

func prepared(t *testing.T) Folder {
	t.Helper()
	folder := Folder(filepath.Join(t.TempDir(), "lab"))
	if err := folder.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return folder
}

// tree lists a folder's files with their content, and checks that only their owner can read them.
func tree(t *testing.T, folder Folder) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(string(folder), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		if entry.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files[strings.TrimPrefix(path, string(folder))] = string(raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPrepare(t *testing.T) {
	folder := prepared(t)
	before := tree(t, folder)
	if len(before) < 5 {
		t.Errorf("only %d files", len(before))
	}
	if err := folder.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, folder)); diff != "" {
		t.Errorf("the second time changed files (-before +after):\n%s", diff)
	}
	token, err := folder.token()
	if err != nil || token.ID() != TokenID {
		t.Errorf("token %v, %v", token, err)
	}
	for name, content := range before {
		if strings.Contains(content, token.Reveal()) {
			t.Errorf("%s holds the token in clear", name)
		}
	}
	if err := sopsfile.CheckEncrypted("secrets.enc.json", []byte(before["/project/secrets.enc.json"])); err != nil {
		t.Error(err)
	}
	if other, err := prepared(t).token(); err != nil || other.Reveal() == token.Reveal() {
		t.Errorf("two sandboxes share a token (%v)", err)
	}
}

func TestForgetKeepsTheToolChain(t *testing.T) {
	folder := prepared(t)
	tool := filepath.Join(folder.Toolchain(), "tool")
	if err := os.WriteFile(tool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := folder.Forget(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(folder))
	if err != nil || len(entries) != 1 || !exists(tool) {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestConfigure(t *testing.T) {
	folder := prepared(t)
	program := t.TempDir()
	if err := os.WriteFile(filepath.Join(program, "Pulumi.yaml"), []byte("name: cloudlab\nruntime: go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(folder.Project(), "Pulumi."+Stack+".yaml")
	read := func() string {
		raw, err := os.ReadFile(target)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	configure := func(text string) {
		if err := folder.Configure(program, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	configure("config:\n  a: 1\n")
	if got := read(); got != "config:\n  a: 1\n" {
		t.Errorf("configuration %q", got)
	}
	settings, err := os.ReadFile(filepath.Join(folder.Project(), "Pulumi.yaml"))
	if want := "name: cloudlab\nruntime: go\nmain: " + program + "\n"; err != nil || string(settings) != want {
		t.Errorf("settings %q, %v, want %q", settings, err, want)
	}
	// Pulumi adds the salt of its secrets. Without it the state cannot be read any more.
	const salt = "encryptionsalt: v1:abc=:v1:def:ghi\n"
	if err := os.WriteFile(target, []byte(read()+salt), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		configure("config:\n  a: 2\n")
		if got, want := read(), "config:\n  a: 2\n"+salt; got != want {
			t.Errorf("configuration %q, want %q", got, want)
		}
	}
	if err := folder.Configure(t.TempDir(), nil); err == nil {
		t.Error("a program without Pulumi.yaml")
	}
}

func TestEnviron(t *testing.T) {
	folder := Folder("/lab")
	variables := map[string]string{}
	for _, entry := range folder.Environ("http://127.0.0.1:1234") {
		name, value, _ := strings.Cut(entry, "=")
		variables[name] = value
	}
	for name, want := range map[string]string{
		"HTTPS_PROXY": "http://127.0.0.1:1234", "https_proxy": "http://127.0.0.1:1234", "PULUMI_BACKEND_URL": "file:///lab/backend?metadata=skip",
		"SOPS_AGE_KEY_FILE": "/lab/project/.age-key.txt", "SSL_CERT_FILE": "/lab/project/proxmox-ca.pem",
		// What the user has in the environment must not win.
		"SOPS_AGE_KEY": "", "PULUMI_CONFIG_PASSPHRASE": "",
	} {
		if got, set := variables[name]; !set || got != want {
			t.Errorf("%s=%q, want %q", name, got, want)
		}
	}
}

func TestLockHolder(t *testing.T) {
	folder := prepared(t)
	locks := filepath.Join(folder.backend(), ".pulumi", "locks", "organization", Project, Stack)
	if err := os.MkdirAll(locks, 0o700); err != nil {
		t.Fatal(err)
	}
	lock := func(content string) {
		if err := os.WriteFile(filepath.Join(locks, "x.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, pid int, alive bool) {
		t.Helper()
		gotPID, gotAlive, err := folder.LockHolder()
		if err != nil || gotPID != pid || gotAlive != alive {
			t.Errorf("%s: process %d, alive %t, %v, want %d, %t", what, gotPID, gotAlive, err, pid, alive)
		}
	}
	want("no lock", 0, false)
	lock(fmt.Sprintf(`{"pid": %d}`, os.Getpid()))
	want("a living process that is no engine", os.Getpid(), false)

	// A copy of sleep under the engine's name.
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep command")
	}
	raw, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(t.TempDir(), engineName)
	if err := os.WriteFile(fake, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	engine := exec.Command(fake, "60")
	if err := engine.Start(); err != nil {
		t.Skipf("a copy of sleep does not run here: %v", err)
	}
	lock(fmt.Sprintf(`{"pid": %d}`, engine.Process.Pid))
	want("a living engine", engine.Process.Pid, true)
	if err := engine.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = engine.Wait()
	want("a dead engine", engine.Process.Pid, false)

	lock("half a fi")
	if _, _, err := folder.LockHolder(); err == nil || !strings.Contains(err.Error(), "x.json") {
		t.Errorf("a broken lock: %v", err)
	}
}
