package pve

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeGuests are machines that boot at once.
type fakeGuests struct {
	mu         sync.Mutex
	on         map[int]Hardware
	started    []Hardware
	destroyed  []int
	interfaces []Interface
	powerError error
	// hang makes Shutdown wait for its context.
	hang bool
}

func newFakeGuests() *fakeGuests {
	return &fakeGuests{on: map[int]Hardware{}, interfaces: []Interface{
		{Name: "lo", MAC: "00:00:00:00:00:00", Addresses: []string{"127.0.0.1/8", "::1/128"}},
		{Name: "eth0", MAC: "BC:24:11:00:00:01", Addresses: []string{"192.0.2.11/24", "fe80::1/64"}},
	}}
}

func (g *fakeGuests) PowerOn(hw Hardware) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.powerError != nil {
		return g.powerError
	}
	g.on[hw.VMID] = hw
	g.started = append(g.started, hw)
	return nil
}

func (g *fakeGuests) PowerOff(vmid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.on, vmid)
}

func (g *fakeGuests) Shutdown(ctx context.Context, vmid int) error {
	g.mu.Lock()
	hang := g.hang
	if !hang {
		delete(g.on, vmid)
	}
	g.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (g *fakeGuests) Interfaces(vmid int) ([]Interface, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, on := g.on[vmid]; !on {
		return nil, ErrAgentNotRunning
	}
	return g.interfaces, nil
}

func (g *fakeGuests) Destroy(vmid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.destroyed = append(g.destroyed, vmid)
}

func (g *fakeGuests) set(f func(*fakeGuests)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

func (g *fakeGuests) running(vmid int) (Hardware, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	hw, ok := g.on[vmid]
	return hw, ok
}

const (
	testTokenID = "sim@pve!ci"
	testSecret  = "11111111-2222-3333-4444-555555555555"
)

// lab is a server with its fakes and a client that holds one token.
type lab struct {
	*Server
	t       *testing.T
	guests  *fakeGuests
	web     *httptest.Server // where images are downloaded from
	address string
	client  *http.Client
	header  string // Authorization
}

const isoContent = "a very small image"

// newLab starts a server whose token holds these privileges on /; none stands for an administrator.
func newLab(t *testing.T, privileges ...string) *lab {
	t.Helper()
	token := Grant(testSecret, privileges...)
	token.Administrator = len(privileges) == 0
	return newLabWith(t, Options{Tokens: map[string]Token{testTokenID: token}})
}

func newLabWith(t *testing.T, options Options) *lab {
	t.Helper()
	l := &lab{t: t, guests: newFakeGuests(), header: "PVEAPIToken=" + testTokenID + "=" + testSecret}
	mux := http.NewServeMux()
	mux.HandleFunc("/image/talos.iso", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "talos.iso", time.Unix(0, 0), strings.NewReader(isoContent))
	})
	l.web = httptest.NewTLSServer(mux)
	t.Cleanup(l.web.Close)
	if options.Guests == nil {
		options.Guests = l.guests
	}
	options.Fetch, options.Dir = l.web.Client(), t.TempDir()
	server, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	l.Server = server
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate, pool := selfSigned(t)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener, certificate) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l.address = "https://" + listener.Addr().String()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	t.Cleanup(transport.CloseIdleConnections)
	l.client = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	return l
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pve"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// reply is an answer of the API.
type reply struct {
	status int
	reason string
	body   struct {
		Data    json.RawMessage   `json:"data"`
		Message string            `json:"message"`
		Errors  map[string]string `json:"errors"`
		Total   int               `json:"total"`
	}
	err error
}

// call sends a request the way bpg's provider does: parameters in the form for POST and PUT, in the query otherwise.
func (l *lab) call(method, path string, params ...string) reply {
	l.t.Helper()
	values := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		values.Add(params[i], params[i+1])
	}
	target := l.address + "/api2/json" + path
	var body io.Reader
	if method == http.MethodPost || method == http.MethodPut {
		body = strings.NewReader(values.Encode())
	} else if len(values) > 0 {
		target += "?" + values.Encode()
	}
	request, err := http.NewRequestWithContext(l.t.Context(), method, target, body)
	if err != nil {
		l.t.Fatal(err)
	}
	if l.header != "" {
		request.Header.Set("Authorization", l.header)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := l.client.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	r := reply{status: response.StatusCode}
	_, r.reason, _ = strings.Cut(response.Status, " ")
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &r.body); err != nil {
			l.t.Fatalf("%s %s: body %q: %v", method, path, raw, err)
		}
	}
	return r
}

// ok calls and fails the test unless the answer is 200.
func (l *lab) ok(method, path string, params ...string) json.RawMessage {
	l.t.Helper()
	r := l.call(method, path, params...)
	if r.err != nil || r.status != http.StatusOK {
		l.t.Fatalf("%s %s: %d %s %v %v", method, path, r.status, r.reason, r.body.Errors, r.err)
	}
	return r.body.Data
}

// task calls, waits for the task and returns its exit status.
func (l *lab) task(method, path string, params ...string) string {
	l.t.Helper()
	return l.wait(l.ok(method, path, params...))
}

func (l *lab) wait(raw json.RawMessage) string {
	l.t.Helper()
	var upid string
	if err := json.Unmarshal(raw, &upid); err != nil {
		l.t.Fatalf("no UPID in %s", raw)
	}
	node := strings.Split(upid, ":")[1]
	for range 200 {
		status := decode[struct{ Status, ExitStatus string }](l.t, l.ok("GET", "/nodes/"+node+"/tasks/"+url.PathEscape(upid)+"/status"))
		if status.Status == "stopped" {
			return status.ExitStatus
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.t.Fatalf("task %s does not end", upid)
	return ""
}

// done is task for tasks that must end well.
func (l *lab) done(method, path string, params ...string) {
	l.t.Helper()
	if exit := l.task(method, path, params...); exit != "OK" {
		l.t.Fatalf("%s %s: task ended with %q", method, path, exit)
	}
}

func decode[T any](t *testing.T, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// refused fails the test unless the answer is this error.
func (l *lab) refused(r reply, status int, reason string, errs map[string]string) {
	l.t.Helper()
	if r.err != nil || r.status != status || r.reason != reason {
		l.t.Errorf("got %d %q (%v), want %d %q", r.status, r.reason, r.err, status, reason)
	}
	if fmt.Sprint(r.body.Errors) != fmt.Sprint(errs) {
		l.t.Errorf("errors: got %q, want %q", r.body.Errors, errs)
	}
}

// talosForm is what bpg's provider sends for a Talos machine.
func talosForm(vmid int) []string {
	return []string{
		"vmid", fmt.Sprint(vmid), "name", "cp-1", "acpi", "1", "agent", "enabled=1,fstrim_cloned_disks=0,type=virtio", "balloon", "0",
		"bios", "ovmf", "boot", "order=scsi0;ide2", "cores", "4", "sockets", "1", "cpu", "cputype=host", "cpuunits", "1024",
		"numa", "0", "keyboard", "en-us", "machine", "q35", "memory", "8192",
		"efidisk0", "file=local-lvm:1,format=raw,efitype=4m,pre-enrolled-keys=0", "tpmstate0", "file=local-lvm:1,version=v2.0",
		"ide2", "file=local:iso/talos.iso,media=cdrom,",
		"scsi0", "file=local-lvm:32,format=raw,size=34359738368,aio=io_uring,backup=1,iothread=0,ssd=0,discard=on,cache=none,replicate=1",
		"net0", "model=virtio,bridge=vmbr0,firewall=0,macaddr=BC:24:11:00:00:01", "ostype", "l26", "scsihw", "virtio-scsi-pci",
		"onboot", "1", "protection", "0", "tablet", "1", "template", "0", "vga", "memory=16,type=std", "serial0", "socket",
		"tags", "a;b",
	}
}

// with replaces or adds parameters; an empty value removes one.
func with(form []string, changes ...string) []string {
	result := []string{}
	replaced := map[string]string{}
	for i := 0; i+1 < len(changes); i += 2 {
		replaced[changes[i]] = changes[i+1]
	}
	for i := 0; i+1 < len(form); i += 2 {
		if _, ok := replaced[form[i]]; !ok {
			result = append(result, form[i], form[i+1])
		}
	}
	for i := 0; i+1 < len(changes); i += 2 {
		if changes[i+1] != "" {
			result = append(result, changes[i], changes[i+1])
		}
	}
	return result
}

func (l *lab) download() {
	l.t.Helper()
	l.done("POST", "/nodes/pve/storage/local/download-url", "content", "iso", "filename", "talos.iso", "node", "pve",
		"storage", "local", "url", l.web.URL+"/image/talos.iso", "verify-certificates", "1")
}

// withMachine makes a lab with the Talos machine 101.
func withMachineLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.download()
	l.done("POST", "/nodes/pve/qemu", talosForm(101)...)
	return l
}
