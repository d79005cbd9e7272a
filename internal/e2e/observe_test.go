package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	proxmox "github.com/luthermonson/go-proxmox"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/sopsfile"
	"cloudlab/internal/stack"
)

// settleLimit bounds the wait for machines that start or stop on their own.
const settleLimit = 20 * time.Second

// eventually waits until a condition holds; what it returns says what is missing.
func (l *lab) eventually(condition func() string) {
	l.t.Helper()
	deadline := time.NewTimer(settleLimit)
	defer deadline.Stop()
	for {
		missing := condition()
		if missing == "" {
			return
		}
		select {
		case <-deadline.C:
			l.t.Fatalf("after %s: %s", settleLimit, missing)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// awaitRunning waits until every machine runs with etcd where it belongs.
func (l *lab) awaitRunning() {
	l.t.Helper()
	l.eventually(func() string {
		for _, s := range l.Rack.Status() {
			if s.Phase != machine.PhaseRunning || s.Role == "controlplane" && !s.Bootstrapped {
				return fmt.Sprintf("machine %d is not running: %+v", s.VMID, s)
			}
		}
		return ""
	})
}

// writes lists the Proxmox calls so far that were to change something, as "METHOD path".
func (l *lab) writes() []string {
	var calls []string
	for _, r := range l.Proxmox.Requests() {
		if r.Method != http.MethodGet {
			calls = append(calls, r.Method+" "+r.Path)
		}
	}
	return calls
}

// counter counts the calls of a Talos method from now on; the function returns the numbers per VM so far.
func (l *lab) counter(method string) func() map[int]int {
	l.t.Helper()
	ids := map[string]int{}
	for _, status := range l.Rack.Status() {
		// Without an effect that anybody would notice.
		id, err := l.Rack.AddFault(machine.Fault{VMID: status.VMID, Method: method, Delay: 1})
		if err != nil {
			l.t.Fatal(err)
		}
		ids[id] = status.VMID
	}
	return func() map[int]int {
		counts := map[int]int{}
		for _, fault := range l.Rack.Faults() {
			if vmid, ok := ids[fault.ID]; ok && fault.Seen > 0 {
				counts[vmid] = fault.Seen
			}
		}
		for id := range ids {
			l.Rack.ClearFault(id)
		}
		return counts
	}
}

// machineLogs maps each machine's number to its log.
func (l *lab) machineLogs() map[int]string {
	logs := map[int]string{}
	for _, status := range l.Rack.Status() {
		logs[status.VMID] = strings.Join(l.Rack.Logs(status.VMID), "\n")
	}
	return logs
}

// stamp is what an untouched file keeps.
type stamp struct {
	Content  string
	Modified time.Time
	Mode     os.FileMode
}

func stamps(t *testing.T, l *lab) map[string]stamp {
	t.Helper()
	all := map[string]stamp{}
	for _, kind := range []string{"kubeconfig", "talosconfig", "machine-secrets"} {
		path := l.credentialFile(kind)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = stamp{string(raw), info.ModTime(), info.Mode()}
	}
	return all
}

// credentialFile is where the encrypted credentials of one kind are.
func (l *lab) credentialFile(kind string) string {
	return filepath.Join(l.Folder().Project(), stack.CredentialFile(kind, sandbox.Stack))
}

// decrypted is the content of the encrypted credentials of one kind.
func (l *lab) decrypted(kind string) []byte {
	l.t.Helper()
	plain, err := sopsfile.Decrypt(l.credentialFile(kind), sopsfile.Options{ProjectDir: l.Folder().Project()})
	if err != nil {
		l.t.Fatal(err)
	}
	return plain
}

// token is the program's API token.
func (l *lab) token() string {
	l.t.Helper()
	dir := l.Folder().Project()
	secrets, err := sopsfile.ReadSecrets(dir, sopsfile.Options{ProjectDir: dir})
	if err != nil {
		l.t.Fatal(err)
	}
	return secrets.ProxmoxAPIToken.Reveal()
}

// proxmoxClient is another client of the simulated Proxmox, with the program's token and trust in the sandbox's CA.
func (l *lab) proxmoxClient() *proxmox.Client {
	l.t.Helper()
	id, secret, _ := strings.Cut(l.token(), "=")
	transport := &http.Transport{
		DialContext:     l.LAN.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: certificates(l.t, filepath.Join(l.Folder().Project(), "proxmox-ca.pem")), MinVersion: tls.VersionTLS12},
	}
	return proxmox.NewClient("https://"+sandbox.ProxmoxAddress+"/api2/json",
		proxmox.WithHTTPClient(&http.Client{Transport: transport, Timeout: settleLimit}), proxmox.WithAPIToken(id, secret))
}

// registerSchematic makes a schematic known to the Image Factory, as a person would with curl, and returns its ID.
func (l *lab) registerSchematic(text string) string {
	l.t.Helper()
	answer := httptest.NewRecorder()
	l.Factory.ServeHTTP(answer, httptest.NewRequestWithContext(l.t.Context(), http.MethodPost, "/schematics", strings.NewReader(text)))
	var made struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &made); err != nil || made.ID == "" {
		l.t.Fatalf("register a schematic: %d %s", answer.Code, answer.Body)
	}
	return made.ID
}

// withPool is a sandbox whose Proxmox has a resource pool, which the program's token may not create.
func withPool(t *testing.T, pool string) func(*sandbox.Options) {
	return func(o *sandbox.Options) {
		first := *o
		first.Privileges = []string{"Pool.Allocate"}
		hardware, err := sandbox.Start(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		before := &lab{Lab: hardware, t: t}
		ctx, cancel := context.WithTimeout(t.Context(), settleLimit)
		defer cancel()
		if err := before.proxmoxClient().NewPool(ctx, pool, "made by an administrator"); err != nil {
			t.Error(err)
		}
		if err := hardware.Close(); err != nil {
			t.Error(err)
		}
	}
}

// state is everything that a refused operation must leave as it was.
type state struct {
	Machines, Volumes any
	Status            []machine.Status
	Logs              map[int]string
	Credentials       map[string]stamp
	Resources         []string
}

// state reads hardware and stack.
func (l *lab) state() state {
	l.t.Helper()
	inventory := l.Proxmox.Inventory()
	return state{
		Machines: inventory.Machines, Volumes: inventory.Volumes, Status: l.Rack.Status(), Logs: l.machineLogs(),
		Credentials: stamps(l.t, l), Resources: l.resources(),
	}
}

// resources lists the resources of the stack's state with their IDs.
func (l *lab) resources() []string {
	l.t.Helper()
	var all []string
	for _, r := range l.checkpoint() {
		all = append(all, fmt.Sprintf("%s %s %v", r.URN, r.ID, r.Delete))
	}
	slices.Sort(all)
	return all
}

// recorded is a resource in the stack's state.
type recorded struct {
	URN, ID string
	Created string
	// Delete marks what is still to be deleted after a replacement.
	Delete bool
}

func (l *lab) checkpoint() []recorded {
	l.t.Helper()
	raw, err := os.ReadFile(filepath.Join(string(l.Folder()), "backend", ".pulumi", "stacks", sandbox.Project, sandbox.Stack+".json"))
	if err != nil {
		l.t.Fatal(err)
	}
	var file struct {
		Checkpoint struct {
			Latest struct{ Resources []recorded }
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		l.t.Fatal(err)
	}
	return file.Checkpoint.Latest.Resources
}

// resource is the ID of a resource of the stack's state and when it was created: what a replacement changes.
func (l *lab) resource(name string) string {
	l.t.Helper()
	for _, r := range l.checkpoint() {
		if strings.HasSuffix(r.URN, "::"+name) {
			return r.ID + " " + r.Created
		}
	}
	l.t.Fatalf("no resource %s", name)
	return ""
}

// disks lists the machines' volumes, which a change must not replace.
func (l *lab) disks() []string {
	var all []string
	for _, volume := range l.Proxmox.Inventory().Volumes {
		if volume.Content == "images" {
			all = append(all, volume.Node+" "+volume.ID)
		}
	}
	return all
}

// machineConfig is the config in force, read through the machine's API by real talosctl.
func (l *lab) machineConfig(node string) []byte {
	l.t.Helper()
	out := l.talosctl("-n", node, "get", "machineconfig", "v1alpha1", "-o", "jsonpath={.spec}")
	return []byte(out)
}

// talosctl runs the real one with the stack's own talosconfig; it has to succeed.
func (l *lab) talosctl(args ...string) string {
	l.t.Helper()
	out, err := l.tryTalosctl(args...)
	if err != nil {
		l.t.Fatalf("talosctl %s: %v\n%s", strings.Join(args, " "), err, tail(out, 40))
	}
	return out
}

func (l *lab) tryTalosctl(args ...string) (string, error) {
	l.t.Helper()
	home := l.t.TempDir()
	talosconfig := filepath.Join(home, "talosconfig")
	if err := os.WriteFile(talosconfig, l.decrypted("talosconfig"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), operationLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, tools.Path(toolchain.Talosctl), args...)
	cmd.Env = l.environ("HOME="+home, "TALOSCONFIG="+talosconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
