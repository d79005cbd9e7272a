package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/term"
)

const (
	// operationLimit bounds one operation; nothing here takes more than a few seconds unless it hangs.
	operationLimit = 2 * time.Minute
	// interruptWait is how long an interrupted operation may take to end.
	interruptWait = 15 * time.Second
)

// What TestMain prepares: the project's folder, the commands sandbox and credentials, the tools.
var (
	root     string
	command  string
	exporter string
	tools    *toolchain.Set
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: skipped by -short")
		os.Exit(0)
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (int, error) {
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		return 0, err
	}
	ctx := context.Background()
	tools, err = toolchain.Ensure(ctx, toolchain.Options{Root: root, Cache: toolchain.DefaultCache(root), Out: term.New(os.Stderr)})
	if err != nil {
		return 0, err
	}
	bin, err := os.MkdirTemp("", "cloudlab-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(bin) //nolint:errcheck // a leftover in the temporary folder
	command, exporter = filepath.Join(bin, "sandbox"), filepath.Join(bin, "credentials")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./internal/cmd/sandbox", "./internal/cmd/credentials")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build the commands: %w", err)
	}
	return m.Run(), nil
}

// lab is a sandbox of one test.
type lab struct {
	*sandbox.Lab
	t *testing.T
	// seen collects what the sandbox's command wrote, to standard output too.
	seen bytes.Buffer
}

func newLab(t *testing.T, change ...func(*sandbox.Options)) *lab {
	t.Helper()
	// Short: macOS bounds the paths of sockets.
	dir, err := os.MkdirTemp("", "lab-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	options := sandbox.Options{Folder: sandbox.Folder(dir), Log: logFile(t, dir)}
	for _, c := range change {
		c(&options)
	}
	hardware, err := sandbox.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hardware.Close(); err != nil {
			t.Errorf("close the hardware: %v", err)
		}
	})
	return &lab{Lab: hardware, t: t}
}

// logFile keeps the hardware's log and shows it when the test failed.
func logFile(t *testing.T, dir string) *os.File {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "hardware.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = file.Close()
		if raw, err := os.ReadFile(file.Name()); t.Failed() && err == nil {
			t.Logf("hardware log:\n%s", tail(string(raw), 60))
		}
	})
	return file
}

// result is how one operation ended.
type result struct {
	err     error
	summary map[string]int // resources per kind of change
	output  string         // what a person saw
	took    time.Duration
}

// run runs the sandbox's command as a process of its own: run("up", "--config", file).
func (l *lab) run(args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), operationLimit)
	defer cancel()
	cmd := l.process(ctx, args...)
	// As with ^C first: the engine ends its plugins, which would survive a kill.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptWait
	var out, people bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &people
	begin := time.Now()
	err := cmd.Run()
	fmt.Fprintf(&l.seen, "%s%s", out.String(), people.String())
	r := result{err: err, output: people.String(), took: time.Since(begin)}
	if err == nil {
		if err := json.Unmarshal(out.Bytes(), &r.summary); err != nil {
			l.t.Fatalf("%v: standard output is no summary: %v\n%s", args, err, out.String())
		}
	}
	return r
}

// process is the sandbox's command for an operation, not started.
func (l *lab) process(ctx context.Context, args ...string) *exec.Cmd {
	args = append(args, "--output", "json", "--dir", string(l.Folder()))
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = root
	return cmd
}

// must runs an operation that has to succeed with exactly these changes, e.g. must(changes{"same": 15}, "up").
func (l *lab) must(want changes, args ...string) result {
	l.t.Helper()
	r := l.run(args...)
	if r.err != nil {
		l.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), r.err, tail(r.output, 40))
	}
	if want != nil && !want.equal(r.summary) {
		l.t.Fatalf("%s: got %v, want %v\n%s", strings.Join(args, " "), r.summary, want, tail(r.output, 40))
	}
	return r
}

// changes counts resources per kind of change; "same" is compared only when it is given.
type changes map[string]int

func (c changes) equal(summary map[string]int) bool {
	for op, n := range summary {
		if _, given := c[op]; !given && op == "same" {
			continue
		}
		if c[op] != n {
			return false
		}
	}
	for op, n := range c {
		if summary[op] != n {
			return false
		}
	}
	return true
}

// stackFile writes a stack configuration and returns its path.
func (l *lab) stackFile(text string) string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "Pulumi.sandbox.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// defaultStack is the sandbox's own configuration, changed by replacements of old by new text.
func defaultStack(t *testing.T, oldNew ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "Pulumi.sandbox.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("Pulumi.sandbox.yaml does not contain %q", oldNew[i])
		}
		text = strings.Replace(text, oldNew[i], oldNew[i+1], 1)
	}
	return text
}

// environ is the environment of a client that reaches the sandbox.
func (l *lab) environ(more ...string) []string {
	return append(append(os.Environ(), l.Environ()...), more...)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
