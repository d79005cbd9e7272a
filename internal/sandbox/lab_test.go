package sandbox

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/pve"
)

func startLab(t *testing.T, folder Folder) *Lab {
	t.Helper()
	lab, err := Start(t.Context(), Options{Folder: folder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lab.Close() })
	return lab
}

// client passes the lab's network and trusts its CA.
func (l *Lab) client(t *testing.T) *http.Client {
	t.Helper()
	proxy, err := url.Parse(l.LAN.ProxyURL())
	if err != nil {
		t.Fatal(err)
	}
	roots, err := l.folder.roots()
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
}

// proxmox calls the simulated API with the program's token.
func (l *Lab) proxmox(t *testing.T, method, path string, form url.Values) (int, string) {
	t.Helper()
	token, err := l.folder.token()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "https://"+ProxmoxAddress+"/api2/json"+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "PVEAPIToken="+token.Reveal())
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := l.client(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestRestartRemembers(t *testing.T) {
	folder := prepared(t)
	lab := startLab(t, folder)
	proxy := lab.LAN.ProxyURL()
	if status, body := lab.proxmox(t, http.MethodGet, "/version", nil); status != http.StatusOK || !strings.Contains(body, "8.4") {
		t.Errorf("version: %d %s", status, body)
	}
	form := url.Values{"vmid": {"101"}, "name": {"cp-1"}, "memory": {"2048"}, "scsi0": {"local-lvm:4"}, "onboot": {"1"}}
	if status, body := lab.proxmox(t, http.MethodPost, "/nodes/pve/qemu", form); status != http.StatusOK {
		t.Fatalf("create: %d %s", status, body)
	}
	eventually(t, "the machine is created", func() bool {
		_, body := lab.proxmox(t, http.MethodGet, "/nodes/pve/qemu/101/config", nil)
		return strings.Contains(body, "vm-101-disk-0") && !strings.Contains(body, `"lock"`)
	})
	if _, err := Start(t.Context(), Options{Folder: folder}); err == nil || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("a second start: %v", err)
	}
	if err := lab.Close(); err != nil {
		t.Fatal(err)
	}
	if exists(folder.hardware(addressFile)) {
		t.Error("the address is still published")
	}
	if _, err := Connect(t.Context(), folder); !errors.Is(err, ErrNotRunning) {
		t.Errorf("connect to hardware that stopped: %v", err)
	}

	again := startLab(t, folder)
	if again.LAN.ProxyURL() != proxy {
		t.Errorf("the proxy moved from %s to %s, so exported environments are stale", proxy, again.LAN.ProxyURL())
	}
	if inventory := again.Proxmox.Inventory(); len(inventory.Machines) != 1 || len(inventory.Volumes) != 1 {
		t.Errorf("remembers %+v", inventory)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("%s: not in time", what)
}

func TestDamagedStateIsRefused(t *testing.T) {
	folder := prepared(t)
	if err := os.WriteFile(folder.hardware("proxmox.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Folder: folder})
	if err == nil || !strings.Contains(err.Error(), "proxmox.json") || !strings.Contains(err.Error(), "start anew") {
		t.Errorf("error %v", err)
	}
}

func TestTwoSandboxesSideBySide(t *testing.T) {
	one, two := startLab(t, prepared(t)), startLab(t, prepared(t))
	if one.LAN.ProxyURL() == two.LAN.ProxyURL() {
		t.Error("they share a proxy")
	}
	for _, lab := range []*Lab{one, two} {
		if status, _ := lab.proxmox(t, http.MethodGet, "/version", nil); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
}

func TestFactoryIsReached(t *testing.T) {
	lab := startLab(t, prepared(t))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://factory.talos.dev/schematics", strings.NewReader("customization: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := lab.client(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	if body, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(body), "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba") {
		t.Errorf("%s %s %v", response.Status, body, err)
	}
}

func TestControlNeedsItsToken(t *testing.T) {
	lab := startLab(t, prepared(t))
	for _, header := range []string{"", "Bearer ", "Bearer x", "Basic " + lab.control.address.Token} {
		for _, call := range []struct{ method, path string }{
			{http.MethodGet, "/status"}, {http.MethodPost, "/stop"}, {http.MethodPost, "/faults"}, {http.MethodGet, "/requests"}, {http.MethodGet, "/nothing"},
		} {
			request, err := http.NewRequestWithContext(t.Context(), call.method, lab.control.address.URL+call.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", header)
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s with %q: %s", call.method, call.path, header, response.Status)
			}
		}
	}
	select {
	case <-lab.Stopping():
		t.Error("stopped by somebody without the token")
	default:
	}
}

func TestFaults(t *testing.T) {
	lab := startLab(t, prepared(t))
	remote, err := Connect(t.Context(), lab.Folder())
	if err != nil {
		t.Fatal(err)
	}
	if remote.PID != os.Getpid() || remote.Proxy != lab.LAN.ProxyURL() {
		t.Errorf("connected to %+v", remote)
	}
	armed := func() int {
		t.Helper()
		status, err := remote.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(status.Faults)
	}
	faults := map[string]Fault{
		"proxmox": {Proxmox: &pve.Fault{Path: "/version", Status: 500, Reason: "on purpose"}},
		"talos":   {Talos: &machine.Fault{Method: "/machine.MachineService/Bootstrap", Code: "UNAVAILABLE"}},
		"full":    {StorageFull: "local-lvm"},
		"revoked": {TokenRevoked: true},
	}
	for name, fault := range faults {
		id, err := remote.AddFault(t.Context(), fault)
		if err != nil || id == "" || armed() != 1 {
			t.Fatalf("%s: ID %q, %v, %d armed", name, id, err, armed())
		}
		status, _ := lab.proxmox(t, http.MethodGet, "/version", nil)
		if want := map[string]int{"proxmox": 500, "revoked": 401}[name]; want != 0 && status != want {
			t.Errorf("%s: the API answers %d, want %d", name, status, want)
		}
		if err := remote.ClearFault(t.Context(), id); err != nil || armed() != 0 {
			t.Errorf("%s: clear %v, %d still armed", name, err, armed())
		}
		if status, _ := lab.proxmox(t, http.MethodGet, "/version", nil); status != http.StatusOK {
			t.Errorf("%s: the API still answers %d", name, status)
		}
	}
	for _, fault := range faults {
		if _, err := remote.AddFault(t.Context(), fault); err != nil {
			t.Fatal(err)
		}
	}
	if armed() != 4 {
		t.Errorf("%d armed, want 4", armed())
	}
	if err := remote.ClearFault(t.Context(), ""); err != nil || armed() != 0 {
		t.Errorf("clear all: %v, %d still armed", err, armed())
	}
}

func TestFaultErrors(t *testing.T) {
	lab := startLab(t, prepared(t))
	remote, err := Connect(t.Context(), lab.Folder())
	if err != nil {
		t.Fatal(err)
	}
	for want, fault := range map[string]any{
		"nothing to do":       Fault{},
		"no gRPC code":        Fault{Talos: &machine.Fault{Code: "BROKEN"}},
		"is not running":      Fault{PowerLoss: 999},
		"floppy":              Fault{StorageFull: "floppy"},
		`unknown field "foo"`: map[string]any{"foo": 1},
		`unknown field "bar"`: map[string]any{"proxmox": map[string]any{"path": "/version", "bar": 1}},
	} {
		err := remote.call(t.Context(), http.MethodPost, "/faults", fault, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := remote.ClearFault(t.Context(), "no-such-fault"); err == nil || !strings.Contains(err.Error(), "no-such-fault") {
		t.Errorf("error %v", err)
	}
	if _, err := remote.Logs(t.Context(), 999); err != nil {
		t.Errorf("logs of no machine: %v", err)
	}
	if requests, err := remote.Requests(t.Context()); err != nil || len(requests) != 0 {
		t.Errorf("requests %v, %v", requests, err)
	}
}

func TestStop(t *testing.T) {
	lab := startLab(t, prepared(t))
	remote, err := Connect(t.Context(), lab.Folder())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := remote.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-lab.Stopping():
	case <-time.After(5 * time.Second):
		t.Error("not told to stop")
	}
}

// TestConnectToWhatIsGone: a killed process leaves its address behind, and somebody else may have the port now.
func TestConnectToWhatIsGone(t *testing.T) {
	folder := prepared(t)
	other := startLab(t, prepared(t))
	stale, err := json.Marshal(address{PID: 1, URL: other.control.address.URL, Proxy: "http://127.0.0.1:1", Token: "of another life"})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := json.Marshal(address{PID: 1, URL: "http://127.0.0.1:1", Token: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"nobody listens": string(gone), "somebody else listens": string(stale), "half a file": `{"pid"`} {
		if err := os.WriteFile(filepath.Join(folder.hardware(""), addressFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err := Connect(ctx, folder); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	// None of it is in the way of a new start.
	if remote, err := Connect(t.Context(), startLab(t, folder).Folder()); err != nil || remote.PID != os.Getpid() {
		t.Errorf("after a new start: %v", err)
	}
}
