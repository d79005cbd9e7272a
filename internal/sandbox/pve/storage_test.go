package pve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDownload(t *testing.T) {
	l := newLab(t)
	sum := sha256.Sum256([]byte(isoContent))
	good, bad := hex.EncodeToString(sum[:]), strings.Repeat("0", 64)
	download := func(file, path string, more ...string) string {
		params := append([]string{"content", "iso", "filename", file, "url", l.web.URL + path}, more...)
		return l.task("POST", "/nodes/pve/storage/local/download-url", params...)
	}
	check := func(name, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	check("first", download("a.iso", "/image/talos.iso", "checksum", strings.ToUpper(good), "checksum-algorithm", "sha256"), "OK")
	check("again", download("a.iso", "/image/talos.iso"), "refusing to override existing file '/var/lib/vz/template/iso/a.iso'")
	check("same checksum", download("a.iso", "/image/talos.iso", "checksum", good, "checksum-algorithm", "sha256"), "OK")
	check("other checksum", download("a.iso", "/image/talos.iso", "checksum", bad, "checksum-algorithm", "sha256"),
		"checksum mismatch: got '"+good+"' != expect '"+bad+"', aborting")
	check("wrong checksum", download("b.iso", "/image/talos.iso", "checksum", bad, "checksum-algorithm", "sha256"),
		"checksum mismatch: got '"+good+"' != expect '"+bad+"'")
	if exit := download("b.iso", "/image/none.iso"); !strings.HasPrefix(exit, "download failed: ") || !strings.HasSuffix(exit, " ERROR 404: Not Found.") {
		t.Errorf("missing: %q", exit)
	}
	if err := l.SetStorageFull("local", true); err != nil {
		t.Fatal(err)
	}
	if exit := download("b.iso", "/image/talos.iso"); !strings.HasSuffix(exit, "(No space left on device).") {
		t.Errorf("full: %q", exit)
	}
	volumes := l.Inventory().Volumes
	if len(volumes) != 1 || volumes[0].ID != "local:iso/a.iso" || volumes[0].Bytes != int64(len(isoContent)) {
		t.Fatalf("volumes %+v", volumes)
	}
	leftovers, err := os.ReadDir(filepath.Dir(volumes[0].File))
	if err != nil || len(leftovers) != 1 {
		t.Errorf("files %v, %v", leftovers, err)
	}
}

func TestDownloadRefusals(t *testing.T) {
	l := newLab(t)
	for _, test := range []struct {
		name, storage, content, file, reason string
		status                               int
		errs                                 map[string]string
	}{
		{"unknown storage", "nope", "iso", "a.iso", "storage 'nope' does not exist", 500, nil},
		{"block storage", "local-lvm", "iso", "a.iso", "can't upload to storage type 'lvmthin', not a file based storage!", 500, nil},
		{"extension", "local", "iso", "a.txt", "Parameter verification failed.", 400, map[string]string{"filename": "wrong file extension"}},
		{"content", "local", "images", "a.iso", "Parameter verification failed.", 400, map[string]string{
			"content": "value 'images' does not have a value in the enumeration 'iso, vztmpl, import'",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.t = t
			r := l.call("POST", "/nodes/pve/storage/"+test.storage+"/download-url", "content", test.content, "filename", test.file, "url", l.web.URL+"/image/talos.iso")
			l.refused(r, test.status, test.reason, test.errs)
		})
	}
	only := newLabWith(t, Options{
		Tokens:   map[string]Token{testTokenID: {Secret: testSecret, Administrator: true}},
		Storages: []Storage{{Name: "local", Type: "dir", Content: []string{"vztmpl"}, Bytes: 1 << 30}},
	})
	only.refused(only.call("POST", "/nodes/pve/storage/local/download-url", "content", "iso", "filename", "a.iso", "url", "http://x/a.iso"), 500,
		"storage 'local' is not configured for content-type 'iso'", nil)
}

func TestQueryURLMetadata(t *testing.T) {
	l := newLab(t)
	data := decode[map[string]any](t, l.ok("GET", "/nodes/pve/query-url-metadata", "url", l.web.URL+"/image/talos.iso?x=1"))
	if data["filename"] != "talos.iso" || data["size"] != float64(len(isoContent)) || data["mimetype"] != "application/octet-stream" && data["mimetype"] == "" {
		t.Errorf("%v", data)
	}
	l.refused(l.call("GET", "/nodes/pve/query-url-metadata", "url", l.web.URL+"/nope"), 500, "invalid server response: '404 Not Found'", nil)
	l.options.Fetch = &http.Client{} // trusts nobody who signed the test server's certificate
	if r := l.call("GET", "/nodes/pve/query-url-metadata", "url", l.web.URL+"/image/talos.iso"); r.status != 500 || !strings.HasPrefix(r.reason, "invalid server response: '500 Can't connect to") {
		t.Errorf("%d %s", r.status, r.reason)
	}
	l.options.Fetch = &http.Client{Transport: &http.Transport{}}
	l.ok("GET", "/nodes/pve/query-url-metadata", "url", l.web.URL+"/image/talos.iso", "verify-certificates", "0")
}

func TestContent(t *testing.T) {
	l := withMachineLab(t)
	type item struct {
		VolID, Content, Format string
		Size                   int64
		VMID                   int
	}
	items := decode[[]item](t, l.ok("GET", "/nodes/pve/storage/local-lvm/content"))
	want := []item{
		{"local-lvm:vm-101-disk-0", "images", "raw", 4 << 20, 101},
		{"local-lvm:vm-101-disk-1", "images", "raw", 32 << 30, 101},
		{"local-lvm:vm-101-disk-2", "images", "raw", 4 << 20, 101},
	}
	for i, w := range want {
		if i >= len(items) || items[i] != w {
			t.Errorf("got %+v, want %+v", items, want)
			break
		}
	}
	if items := decode[[]item](t, l.ok("GET", "/nodes/pve/storage/local/content", "content", "vztmpl")); len(items) != 0 {
		t.Errorf("templates %+v", items)
	}
	for _, path := range []string{"local-lvm:vm-101-disk-1", "vm-101-disk-1"} {
		info := decode[map[string]any](t, l.ok("GET", "/nodes/pve/storage/local-lvm/content/"+path))
		if info["path"] != "/dev/pve/vm-101-disk-1" || info["size"] != float64(32<<30) || info["format"] != "raw" {
			t.Errorf("%s: %v", path, info)
		}
	}
	l.refused(l.call("GET", "/nodes/pve/storage/local-lvm/content/vm-9-disk-0"), 500,
		`can't get size of '/dev/pve/vm-9-disk-0':   Failed to find logical volume "pve/vm-9-disk-0"`, nil)
	l.refused(l.call("GET", "/nodes/pve/storage/local/content/local-lvm:vm-101-disk-1"), 400, "Parameter verification failed.",
		map[string]string{"volume": "storage ID mismatch (local-lvm != local)\n"})
	l.refused(l.call("DELETE", "/nodes/pve/storage/local/content/iso/wrong.txt"), 500, "unable to parse directory volume name 'iso/wrong.txt'", nil)
	id := decode[string](t, l.ok("POST", "/nodes/pve/storage/local-lvm/content", "filename", "vm-101-data", "vmid", "101", "size", "5M"))
	if id != "local-lvm:vm-101-data" {
		t.Errorf("allocated %q", id)
	}
	status := decode[map[string]any](t, l.ok("GET", "/nodes/pve/storage/local/status"))
	if status["used"] != float64(len(isoContent)) || status["active"] != 1.0 {
		t.Errorf("status %v", status)
	}
	if list := decode[[]map[string]any](t, l.ok("GET", "/nodes/pve/storage", "content", "images")); len(list) != 1 || list[0]["storage"] != "local-lvm" {
		t.Errorf("storages %v", list)
	}
	// A disk that is left over on a missing ISO's machine: the start fails.
	l.done("DELETE", "/nodes/pve/storage/local/content/local:iso%2Ftalos.iso")
	if exit := l.task("POST", vm101+"/status/start"); exit != "volume 'local:iso/talos.iso' does not exist" {
		t.Errorf("start without the ISO: %q", exit)
	}
}

func TestUpload(t *testing.T) {
	l := newLab(t)
	send := func(fields [][2]string, file string) reply {
		t.Helper()
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		for _, field := range fields {
			if err := form.WriteField(field[0], field[1]); err != nil {
				t.Fatal(err)
			}
		}
		part, err := form.CreateFormFile("filename", file)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(part, isoContent)
		_ = form.Close()
		request, err := http.NewRequestWithContext(t.Context(), "POST", l.address+"/api2/json/nodes/pve/storage/local/upload", &body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", form.FormDataContentType())
		request.Header.Set("Authorization", l.header)
		response, err := l.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		raw, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		r := reply{status: response.StatusCode}
		_, r.reason, _ = strings.Cut(response.Status, " ")
		r.body = decode[struct {
			Data    json.RawMessage   `json:"data"`
			Message string            `json:"message"`
			Errors  map[string]string `json:"errors"`
			Total   int               `json:"total"`
		}](t, raw)
		return r
	}
	if exit := l.wait(send([][2]string{{"content", "iso"}}, "up.iso").body.Data); exit != "OK" {
		t.Errorf("upload: %q", exit)
	}
	if exit := l.wait(send([][2]string{{"content", "iso"}, {"checksum-algorithm", "md5"}, {"checksum", "00"}}, "bad.iso").body.Data); !strings.HasPrefix(exit, "checksum mismatch") {
		t.Errorf("wrong checksum: %q", exit)
	}
	l.refused(send([][2]string{{"content", "iso"}}, "up.txt"), 400, "Parameter verification failed.", map[string]string{"filename": "wrong file extension"})
	l.refused(send([][2]string{{"nope", "iso"}}, "up.iso"), 500, "upload failed", nil)
	volumes := l.Inventory().Volumes
	if len(volumes) != 1 || volumes[0].ID != "local:iso/up.iso" {
		t.Errorf("volumes %+v", volumes)
	}
	if files, err := filepath.Glob(filepath.Join(l.options.Dir, "upload-*")); err != nil || len(files) != 0 {
		t.Errorf("left over: %v, %v", files, err)
	}
}
