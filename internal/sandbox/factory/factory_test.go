package factory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Published IDs of the public service.
const (
	vanillaID   = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
	guestID     = "ce4c980550dd2ab1b17bbf2b08801c7eb59418eafe8f279833297925d67c7515"
	guestYAML   = "customization:\n  systemExtensions:\n    officialExtensions: [siderolabs/qemu-guest-agent]\n"
	unknownID   = "0000000000000000000000000000000000000000000000000000000000000000"
	secureISO   = "metal-amd64-secureboot.iso"
	testVersion = "v1.13.9"
)

func newFactory(t *testing.T) (*Factory, *httptest.Server) {
	t.Helper()
	f, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server
}

func request(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// register posts a schematic and returns its ID.
func register(t *testing.T, server *httptest.Server, schematic string) string {
	t.Helper()
	resp, body := request(t, http.MethodPost, server.URL+"/schematics", schematic)
	var got struct{ ID, Schematic string }
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %q: %v", resp.Status, body, err)
	}
	return got.ID
}

func TestSchematicIDsAreThePublishedOnes(t *testing.T) {
	_, server := newFactory(t)
	extensions := func(names ...string) string {
		text := "customization:\n  systemExtensions:\n    officialExtensions:\n"
		for _, name := range names {
			text += "      - siderolabs/" + name + "\n"
		}
		return text
	}
	for _, tc := range []struct{ name, schematic, want string }{
		{"vanilla", "customization: {}\n", vanillaID},
		{"vanilla without content", "{}", vanillaID},
		{"vanilla, defaults written out", "customization:\n  bootloader: none\n  secureboot: {}\n", vanillaID},
		{"guest agent", guestYAML, guestID},
		{"guest agent as JSON", `{"customization":{"systemExtensions":{"officialExtensions":["siderolabs/qemu-guest-agent"]}}}`, guestID},
		{"three", extensions("iscsi-tools", "qemu-guest-agent", "util-linux-tools"), "88d1f7a5c4f1d3aba7df787c448c1d3d008ed29cfb34af53fa0df4336a56040b"},
		{"four", extensions("iscsi-tools", "nfs-utils", "qemu-guest-agent", "util-linux-tools"), "c23d16533980fd972f96a79cc22130404615c16de18f43da4a40d801d4fe8d6a"},
	} {
		if got := register(t, server, tc.schematic); got != tc.want {
			t.Errorf("%s: ID %s, want %s", tc.name, got, tc.want)
		}
	}
	// The order of extensions counts, they are not sorted.
	if register(t, server, extensions("nfs-utils", "nfsd")) == register(t, server, extensions("nfsd", "nfs-utils")) {
		t.Error("order makes no difference")
	}
	resp, body := request(t, http.MethodGet, server.URL+"/schematics/"+guestID, "")
	want := "customization:\n    systemExtensions:\n        officialExtensions:\n            - siderolabs/qemu-guest-agent\n"
	if body != want || resp.Header.Get("Content-Type") != "application/yaml" {
		t.Errorf("schematic is %q (%s)", body, resp.Header.Get("Content-Type"))
	}
}

func TestAllFieldsOfASchematic(t *testing.T) {
	_, server := newFactory(t)
	id := register(t, server, `overlay: {image: siderolabs/sbc-raspberrypi, name: rpi_generic, options: {configTxtAppend: x}}
customization:
  embeddedMachineConfiguration: "a: b"
  extraKernelArgs: [console=ttyS0]
  meta: [{key: 10, value: x}]
  systemExtensions: {officialExtensions: [siderolabs/zfs]}
  bootloader: sd-boot
  secureboot: {enrollKeys: force, includeWellKnownCertificates: true}
  diskImage: {sectorSize: 4096}
`)
	_, body := request(t, http.MethodGet, server.URL+"/schematics/"+id, "")
	if sum([]byte(body)) != id || !strings.Contains(body, "bootloader: sd-boot") {
		t.Errorf("canonical form:\n%s", body)
	}
}

func TestErrors(t *testing.T) {
	_, server := newFactory(t)
	register(t, server, guestYAML)
	vanilla := register(t, server, "{}")
	typo := register(t, server, "customization: {systemExtensions: {officialExtensions: [siderolabs/nfs-mount]}}")
	overlay := register(t, server, "overlay: {image: a, name: b}")
	image := func(id, version, path string) string { return "/image/" + id + "/" + version + "/" + path }
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		want                     string // all of the message, or its start if it ends with …
	}{
		{"unknown field", "POST", "/schematics", "customization: {systemExtension: {}}", 400, "yaml: …"},
		{"unknown top-level field", "POST", "/schematics", "customisation: {}", 400, "yaml: …"},
		{"wrong type", "POST", "/schematics", "customization: [a]", 400, "yaml: …"},
		{"no YAML", "POST", "/schematics", "{", 400, "yaml: …"},
		{"empty body", "POST", "/schematics", "", 400, "EOF"},
		{"bad bootloader", "POST", "/schematics", "customization: {bootloader: lilo}", 400, "yaml: …"},
		{"bad META key", "POST", "/schematics", "customization: {meta: [{key: 256, value: x}]}", 400, "yaml: …"},
		{"owner", "POST", "/schematics", "owner: me", 400, "owner field is only supported in Enterprise edition"},
		{"GET schematics", "GET", "/schematics", "", 405, "Method Not Allowed"},
		{"unknown schematic", "GET", "/schematics/" + unknownID, "", 404, "schematic not found"},
		{"delete schematic", "DELETE", "/schematics/" + guestID, "", 405, "Method Not Allowed"},
		{"image of an unknown schematic", "GET", image(unknownID, testVersion, secureISO), "", 404, `schematic ID "` + unknownID + `" not found`},
		{"unknown schematic comes before a bad version", "GET", image("x", "latest", secureISO), "", 404, `schematic ID "x" not found`},
		{"malformed version", "GET", image(guestID, "latest", secureISO), "", 500, "internal server error"},
		{"incomplete version", "GET", image(guestID, "v1.13", secureISO), "", 500, "internal server error"},
		{"unknown version", "GET", image(guestID, "v9.9.9", secureISO), "", 404, "error enhancing profile from schematic: error getting official extensions: version 9.9.9 is not available"},
		{"unknown version of vanilla", "GET", image(vanilla, "v9.9.9", secureISO), "", 404, "version 9.9.9 is not available"},
		{"unknown extension", "GET", image(typo, testVersion, secureISO), "", 400, `error enhancing profile from schematic: official extension "siderolabs/nfs-mount" is not available for Talos version v1.13.9`},
		{"bad path", "GET", image(guestID, testVersion, "metal.img"), "", 400, `error parsing profile from path: invalid profile path: "metal.img"`},
		{"no architecture", "GET", image(guestID, testVersion, "metal.iso"), "", 400, `error parsing profile from path: invalid platform-arch: "metal"`},
		{"bad architecture", "GET", image(guestID, testVersion, "metal-sparc.iso"), "", 400, `error parsing profile from path: invalid architecture: "sparc"`},
		{"words in the wrong order", "GET", image(guestID, testVersion, "metal-secureboot-amd64.iso"), "", 400, `error parsing profile from path: invalid architecture: "secureboot-amd64"`},
		{"checksum", "GET", image(guestID, testVersion, secureISO+".sha256"), "", 402, "enterprise not enabled: checksum endpoint is not available"},
		{"signature", "GET", image(guestID, testVersion, secureISO+".sigstore.json"), "", 402, "enterprise signing is not enabled: signature endpoint is not available"},
		{"POST image", "POST", image(guestID, testVersion, secureISO), "", 405, "Method Not Allowed"},
		{"arm64", "GET", image(guestID, testVersion, "metal-arm64.iso"), "", 501, "not simulated…"},
		{"nocloud", "GET", image(guestID, testVersion, "nocloud-amd64.iso"), "", 501, "not simulated…"},
		{"disk image", "GET", image(guestID, testVersion, "metal-amd64.raw.xz"), "", 501, "not simulated…"},
		{"kernel", "GET", image(guestID, testVersion, "kernel-amd64"), "", 501, "not simulated…"},
		{"overlay", "GET", image(overlay, testVersion, "metal-amd64.iso"), "", 501, "not simulated…"},
		{"extensions of a malformed version", "GET", "/version/x/extensions/official", "", 500, "internal server error"},
		{"extensions of an unknown version", "GET", "/version/v9.9.9/extensions/official", "", 404, "version 9.9.9 is not available"},
		{"HEAD versions", "HEAD", "/versions", "", 405, ""},
		{"registry", "GET", "/v2/metal-installer/" + guestID + "/manifests/v1.13.9", "", 501, "not simulated…"},
		{"front page", "GET", "/", "", 501, "not simulated…"},
		{"no such route", "GET", "/schematic", "", 404, "404 page not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := request(t, tc.method, server.URL+tc.path, tc.body)
			start, open := strings.CutSuffix(tc.want, "…")
			body = strings.TrimSuffix(body, "\n")
			if resp.StatusCode != tc.status || body != tc.want && (!open || !strings.HasPrefix(body, start)) {
				t.Errorf("%d %q, want %d %q", resp.StatusCode, body, tc.status, tc.want)
			}
		})
	}
}

func TestImage(t *testing.T) {
	_, server := newFactory(t)
	id := register(t, server, "customization: {systemExtensions: {officialExtensions: [siderolabs/qemu-guest-agent, siderolabs/i915-ucode]}}")
	want := Boot{Schematic: id, Version: testVersion, SecureBoot: true, Extensions: []string{"siderolabs/qemu-guest-agent", "siderolabs/i915-ucode"}}
	resp, body := request(t, http.MethodGet, server.URL+"/image/"+id+"/"+testVersion+"/"+secureISO, "")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %q", resp.Status, body)
	}
	for header, value := range map[string]string{
		"Content-Type":        "application/x-iso9660-image",
		"Content-Length":      strconv.Itoa(len(body)),
		"Content-Disposition": `attachment; filename="metal-amd64-secureboot.iso"`,
	} {
		if got := resp.Header.Get(header); got != value {
			t.Errorf("%s: %q, want %q", header, got, value)
		}
	}
	got, err := ReadISO(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("boot (-want +got):\n%s", diff)
	}
	path := filepath.Join(t.TempDir(), "x.iso")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadISOFile(path); err != nil || !cmp.Equal(want, got) {
		t.Errorf("from a file: %+v, %v", got, err)
	}

	head, empty := request(t, http.MethodHead, server.URL+"/image/"+id+"/1.13.9/"+secureISO+"?filename=talos.iso", "")
	if head.ContentLength != int64(len(body)) || empty != "" || head.Header.Get("Content-Disposition") != `attachment; filename="talos.iso"` {
		t.Errorf("HEAD: %v", head.Header)
	}
	_, plain := request(t, http.MethodGet, server.URL+"/image/"+id+"/"+testVersion+"/metal-amd64.iso", "")
	if got, err := ReadISO(strings.NewReader(plain)); err != nil || got.SecureBoot {
		t.Errorf("without SecureBoot: %+v, %v", got, err)
	}
}

func TestImageBytesDependOnTheBootOnly(t *testing.T) {
	boot := Boot{Schematic: vanillaID, Version: testVersion, SecureBoot: true}
	first, err := writeISO(boot)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // the format's dates count hundredths of seconds
	second, err := writeISO(boot)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two builds differ")
	}
	boot.Version = "v1.13.8"
	if third, err := writeISO(boot); err != nil || bytes.Equal(first, third) {
		t.Errorf("versions have the same image (%v)", err)
	}
}

func TestReadISORefuses(t *testing.T) {
	good, err := writeISO(Boot{Schematic: vanillaID, Version: testVersion})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) []byte { return bytes.Replace(slices.Clone(good), []byte(from), []byte(to), 1) }
	for name, medium := range map[string][]byte{
		"empty":          nil,
		"short":          good[:5000],
		"no ISO":         bytes.Repeat([]byte("x"), 50000),
		"other medium":   edit("cloudlab.json", "cloudlad.json"),
		"damaged marker": edit(`"schematic"`, `"schemat1c"`),
		"bad ID":         edit(vanillaID, strings.Repeat("x", 64)),
		"bad version":    edit(`"v1.13.9"`, `"vv.13.9"`),
	} {
		if boot, err := ReadISO(bytes.NewReader(medium)); !errors.Is(err, ErrNotBootable) {
			t.Errorf("%s: %+v, %v", name, boot, err)
		}
	}
	if _, err := ReadISOFile(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestLists(t *testing.T) {
	_, server := newFactory(t)
	var versions []string
	_, body := request(t, http.MethodGet, server.URL+"/versions", "")
	if err := json.Unmarshal([]byte(body), &versions); err != nil || !slices.Contains(versions, testVersion) || versions[0] != "v1.10.0" {
		t.Errorf("versions %v, %v", versions, err)
	}
	if slices.Index(versions, "v1.12.2") > slices.Index(versions, "v1.12.10") {
		t.Error("versions are not sorted as versions")
	}
	if _, body := request(t, http.MethodGet, server.URL+"/versions?broken=true", ""); body != "[]\n" {
		t.Errorf("broken versions: %q", body)
	}
	var extensions []struct{ Name, Ref, Digest, Author, Description string }
	_, body = request(t, http.MethodGet, server.URL+"/version/1.13.9/extensions/official", "")
	if err := json.Unmarshal([]byte(body), &extensions); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range extensions {
		names[e.Name] = true
		if e.Ref == "" || !strings.HasPrefix(e.Digest, "sha256:") || e.Author == "" {
			t.Errorf("incomplete: %+v", e)
		}
	}
	if !names["siderolabs/qemu-guest-agent"] || !names["siderolabs/nfs-utils"] || names["siderolabs/nfs-mount"] {
		t.Errorf("extensions %v", names)
	}
}

func TestInstaller(t *testing.T) {
	f, server := newFactory(t)
	register(t, server, guestYAML)
	typo := register(t, server, "customization: {systemExtensions: {officialExtensions: [siderolabs/nope]}}")
	secure := Boot{Schematic: guestID, Version: testVersion, SecureBoot: true, Extensions: []string{"siderolabs/qemu-guest-agent"}}
	plain := secure
	plain.SecureBoot = false
	for ref, want := range map[string]Boot{
		"factory.talos.dev/metal-installer-secureboot/" + guestID + ":v1.13.9": secure,
		"factory.talos.dev/installer-secureboot/" + guestID + ":v1.13.9":       secure,
		"factory.talos.dev/metal-installer/" + guestID + ":v1.13.9":            plain,
		"factory.talos.dev/installer/" + guestID:                               plain, // latest
	} {
		got, err := f.Installer(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", ref, diff)
		}
	}
	for ref, want := range map[string]struct {
		code int
		text string
	}{
		"factory.talos.dev/metal-installer-secureboot/" + unknownID + ":v1.13.9": {404, "not found"},
		"factory.talos.dev/metal-installer-secureboot/" + guestID + ":v9.9.9":    {404, "version 9.9.9 is not available"},
		"factory.talos.dev/metal-installer-secureboot/" + guestID + ":1.13.9":    {404, "manifest unknown"},
		"factory.talos.dev/metal-installer-secureboot/" + guestID + ":v1.13":     {500, "internal server error"},
		"factory.talos.dev/metal-secureboot-installer-x/" + guestID + ":v1.13.9": {400, "invalid image: metal-secureboot-installer-x"},
		"factory.talos.dev/metal-installer-secureboot/" + typo + ":v1.13.9":      {400, "siderolabs/nope"},
		"factory.talos.dev/nocloud-installer/" + guestID + ":v1.13.9":            {501, "platform nocloud"},
		"factory.talos.dev/siderolabs/installer:v1.13.9":                         {501, "image proxy"},
		"factory.talos.dev/installer:v1.13.9":                                    {404, "unknown registry path"},
		"factory.talos.dev/metal-installer/" + guestID + "@sha256:" + unknownID:  {501, "digest"},
		"ghcr.io/siderolabs/installer:v1.13.9":                                   {0, "no such host"},
		"installer":                                                              {0, "not a reference"},
	} {
		boot, err := f.Installer(ref)
		if err == nil || !strings.Contains(err.Error(), want.text) || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: %+v, %v; want %q", ref, boot, err, want.text)
		}
		status := &StatusError{}
		if errors.As(err, &status); status.Code != want.code {
			t.Errorf("%s: status %d, want %d", ref, status.Code, want.code)
		}
	}
}

func TestSnapshot(t *testing.T) {
	f, server := newFactory(t)
	register(t, server, guestYAML)
	state, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Options{Host: "factory.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Restore(state); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Installer("factory.example.com/metal-installer/" + guestID + ":v1.13.9"); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"no JSON":    "x",
		"other keys": `{"schematic": {}}`,
		"wrong ID":   strings.Replace(string(state), guestID, vanillaID, 1),
		"bad YAML":   `{"schematics": {"x": "a: b"}}`,
	} {
		if err := other.Restore([]byte(bad)); err == nil || !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := other.Snapshot(); err != nil || !bytes.Equal(again, state) {
		t.Errorf("a refused snapshot changed the state: %s, %v", again, err)
	}
}

func TestRequestsAndOptions(t *testing.T) {
	f, server := newFactory(t)
	register(t, server, guestYAML)
	register(t, server, guestYAML)
	request(t, http.MethodHead, server.URL+"/image/"+guestID+"/"+testVersion+"/"+secureISO, "")
	request(t, http.MethodGet, server.URL+"/nowhere", "")
	request(t, http.MethodGet, server.URL+"/healthz", "")
	want := map[string]int{"POST /schematics": 2, "HEAD /image/{schematic}/{version}/{path}": 1, "GET /nowhere": 1, "GET /healthz": 1}
	if diff := cmp.Diff(want, f.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if _, err := New(Options{Versions: []string{"v1.13"}}); err == nil || !strings.Contains(err.Error(), "v1.13") {
		t.Errorf("bad version on offer: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	f, server := newFactory(t)
	register(t, server, guestYAML)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := register(t, server, fmt.Sprintf("customization: {extraKernelArgs: [a=%d]}", i%2))
			request(t, http.MethodGet, server.URL+"/image/"+id+"/"+testVersion+"/"+secureISO, "")
			if _, err := f.Snapshot(); err != nil {
				t.Error(err)
			}
			if _, err := f.Installer("factory.talos.dev/installer/" + id + ":" + testVersion); err != nil {
				t.Error(err)
			}
			f.Requests()
		})
	}
	wg.Wait()
}
