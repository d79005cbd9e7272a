package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/toolchain"
)

// daemon is a sandbox whose hardware is a process of its own, as on a person's machine.
type daemon struct {
	t   *testing.T
	dir string
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	parent, err := os.MkdirTemp("", "lab-") //nolint:usetesting // macOS bounds the paths of sockets
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: filepath.Join(parent, "s")}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(d.dir, "hardware.log"))
			t.Logf("hardware log:\n%s", tail(string(log), 40))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), settleLimit)
		defer cancel()
		// Whatever happened in the test, no process stays behind.
		if out, err := exec.CommandContext(ctx, command, "down", "--dir", d.dir).CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		_ = os.RemoveAll(parent)
	})
	return d
}

// run runs the sandbox's command and returns its standard output; it has to succeed.
func (d *daemon) run(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != "" {
		d.t.Errorf("%s: %s", strings.Join(args, " "), tail(err, 40))
	}
	return out
}

func (d *daemon) try(args ...string) (out, failure string) {
	ctx, cancel := context.WithTimeout(d.t.Context(), operationLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, append(args, "--dir", d.dir)...)
	cmd.Dir = root
	var data, people bytes.Buffer
	cmd.Stdout, cmd.Stderr = &data, &people
	if err := cmd.Run(); err != nil {
		return data.String(), err.Error() + "\n" + people.String()
	}
	return data.String(), ""
}

func (d *daemon) up(want changes) {
	d.t.Helper()
	var got map[string]int
	out := d.run("up", "--output", "json")
	if err := json.Unmarshal([]byte(out), &got); err != nil || !want.equal(got) {
		d.t.Errorf("up: %v, got %v, want %v", err, got, want)
	}
}

func (d *daemon) status() sandbox.Status {
	d.t.Helper()
	var status sandbox.Status
	if err := json.Unmarshal([]byte(d.run("status", "--output", "json")), &status); err != nil {
		d.t.Errorf("status: %v", err)
	}
	return status
}

// TestSideBySide: two sandboxes run at the same time and end without a trace.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	both := []*daemon{newDaemon(t), newDaemon(t)}
	var group sync.WaitGroup
	for _, d := range both {
		group.Go(func() { d.up(changes{"create": 15}) })
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	var ids, proxies []string
	for _, d := range both {
		status := d.status()
		if len(status.Machines) != 1 || status.Machines[0].Phase != machine.PhaseRunning || len(status.Inventory.Machines) != 1 || !alive(status.PID) {
			t.Errorf("status %+v", status)
		}
		info, err := os.Stat(d.dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the sandbox's folder, which holds keys: %v, mode %v, want 0700", err, info.Mode())
		}
		proxies = append(proxies, status.Proxy)
		ids = append(ids, clusterID(d.shell(`talosctl get info -o jsonpath={.spec.clusterId}`)))
		d.checkShell()
	}
	if proxies[0] == proxies[1] || ids[0] == ids[1] || ids[0] == "" {
		t.Errorf("not two sandboxes: networks %v, clusters %v", proxies, ids)
	}
	both[0].restart()
	both[1].down()
	// The other one does not notice.
	both[0].up(changes{"same": 15})
	both[0].down()
}

func clusterID(out string) string { return strings.TrimSpace(out) }

// checkShell: the exported environment is all that people's tools need.
func (d *daemon) checkShell() {
	d.t.Helper()
	for script, want := range map[string]string{
		"talosctl version":                                         "v1.13.9",
		"pulumi stack output endpoint":                             "https://192.0.2.11:6443",
		"curl -sS https://192.0.2.2:8006/":                         "",
		`printf '%s' "$KUBECONFIG"`:                                filepath.Join(d.dir, "kubeconfig"),
		"ls -l $KUBECONFIG $TALOSCONFIG":                           "-rw-------",
		`cd "$(dirname "$KUBECONFIG")/project" && pulumi stack ls`: "sandbox",
	} {
		if strings.HasPrefix(script, "pulumi") {
			script += " --stack sandbox --cwd " + filepath.Join(d.dir, "project")
		}
		if strings.HasPrefix(script, "curl") {
			if _, err := exec.LookPath("curl"); err != nil {
				continue
			}
		}
		if out := d.shell(script); !strings.Contains(out, want) {
			d.t.Errorf("%s: %q is not in\n%s", script, want, tail(out, 20))
		}
	}
}

// shell runs a script after `eval "$(sandbox env)"`, with talosctl in the path.
func (d *daemon) shell(script string) string {
	d.t.Helper()
	bin := d.t.TempDir()
	if err := os.Symlink(tools.Path(toolchain.Talosctl), filepath.Join(bin, "talosctl")); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), operationLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-euc", `eval "$("$SANDBOX" env --dir "$SANDBOX_DIR")"; `+script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "SANDBOX="+command, "SANDBOX_DIR="+d.dir, "HOME="+d.t.TempDir(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Errorf("%s: %v\n%s", script, err, tail(string(out), 20))
	}
	return string(out)
}

// restart stops the hardware and finds it again as it was.
func (d *daemon) restart() {
	d.t.Helper()
	before := d.status()
	d.run("down", "--keep")
	if alive(before.PID) {
		d.t.Errorf("process %d is alive after down", before.PID)
	}
	if _, failure := d.try("status"); !strings.Contains(failure, "run `up` first") {
		d.t.Errorf("status of what does not run: %s", failure)
	}
	d.up(changes{"same": 15})
	after := d.status()
	if after.PID == before.PID {
		d.t.Error("the hardware was not started again")
	}
	if after.Proxy != before.Proxy {
		d.t.Errorf("the network moved from %s to %s: exported environments are void", before.Proxy, after.Proxy)
	}
	if diff := cmp.Diff(before.Inventory, after.Inventory); diff != "" {
		d.t.Errorf("inventory (-before +after):\n%s", diff)
	}
	l := &lab{t: d.t}
	l.eventually(func() string {
		now := d.status()
		if len(now.Machines) == 1 && now.Machines[0].Phase == machine.PhaseRunning && now.Machines[0].Bootstrapped {
			return ""
		}
		return "the machine did not come back"
	})
}

// down leaves neither a process nor a file but the tool chain, nor a listener.
func (d *daemon) down() {
	d.t.Helper()
	status := d.status()
	d.run("down")
	if alive(status.PID) {
		d.t.Errorf("process %d is alive after down", status.PID)
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != "toolchain" {
			d.t.Errorf("left after down: %s", entry.Name())
		}
	}
	if proxy, err := url.Parse(status.Proxy); err != nil || !closed(d.t, proxy.Host) {
		d.t.Errorf("%v: somebody still listens on %s", err, status.Proxy)
	}
}

func closed(t *testing.T, address string) bool {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
