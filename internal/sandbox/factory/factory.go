// Package factory simulates the Talos Image Factory: it registers schematics, builds boot images and says what an
// installer reference would install.
//
// Simulated as the real service (v1.5) behaves: POST /schematics with strict decoding and real schematic IDs,
// GET /schematics/{id}, GET and HEAD /image/{schematic}/{version}/metal-amd64[-secureboot].iso, GET /versions,
// GET /version/{version}/extensions/official, GET and HEAD /healthz, with the real service's status codes and messages.
// A schematic with an unknown extension is accepted and fails when an image of it is built. A malformed version is an
// internal server error, as it is there.
//
// NOT simulated, answered with 501 and a text that says so: other architectures, platforms and asset kinds, PXE,
// the OCI registry over HTTP ([Factory.Installer] answers for it), talosctl, overlays, signing keys and the web pages.
// Also absent: TLS (the caller's), accounts, redirects to a content delivery network, build time. Every Talos version
// offers the same extensions, whose tags and digests are made up. An ISO boots nothing: it is a small real ISO 9660
// image that carries a marker, which [ReadISO] reads.
package factory

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/blang/semver/v4"
)

// DefaultHost is the public service's name.
const DefaultHost = "factory.talos.dev"

// maxSchematic bounds a request's body, in bytes.
const maxSchematic = 1 << 20

// Options adjusts a factory. The zero value is like the public service.
type Options struct {
	// Host is the name in installer references, [DefaultHost] if empty.
	Host string
	// Versions are the Talos versions on offer, with or without v; [DefaultVersions] if empty.
	Versions []string
	// Extensions are the official extensions on offer; [DefaultExtensions] if empty.
	Extensions []string
}

// Boot is what a machine boots or installs.
type Boot struct {
	// Schematic is the schematic's ID, 64 hex digits.
	Schematic string `json:"schematic"`
	// Version is the Talos version with its v.
	Version    string   `json:"version"`
	SecureBoot bool     `json:"secureboot"`
	Extensions []string `json:"extensions,omitempty"`
}

// StatusError is a refusal as the real service words it.
type StatusError struct {
	Code    int // HTTP status
	Message string
}

// Error is the message with its status.
func (e *StatusError) Error() string {
	return fmt.Sprintf("image factory: %d %s: %s", e.Code, http.StatusText(e.Code), e.Message)
}

func refuse(code int, format string, args ...any) *StatusError {
	return &StatusError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// internalError is what the real service makes of every failure that it has no status for.
func internalError() *StatusError {
	return refuse(http.StatusInternalServerError, "internal server error")
}

func notSimulated(what string) *StatusError {
	return refuse(http.StatusNotImplemented, "not simulated by the sandbox: %s", what)
}

// Factory is a simulated Image Factory. Its methods are safe for concurrent use.
type Factory struct {
	host       string
	versions   []semver.Version
	extensions []string
	mux        *http.ServeMux
	down       atomic.Bool

	mu         sync.Mutex
	schematics map[string]*schematic
	images     map[string][]byte
	requests   map[string]int
}

// New returns a factory without schematics. It fails if a version in opts is malformed.
func New(opts Options) (*Factory, error) {
	f := &Factory{
		host:       opts.Host,
		extensions: slices.Clone(opts.Extensions),
		schematics: map[string]*schematic{},
		images:     map[string][]byte{},
		requests:   map[string]int{},
	}
	if f.host == "" {
		f.host = DefaultHost
	}
	if len(f.extensions) == 0 {
		f.extensions = DefaultExtensions()
	}
	versions := opts.Versions
	if len(versions) == 0 {
		versions = DefaultVersions()
	}
	for _, v := range versions {
		parsed, err := semver.Parse(strings.TrimPrefix(v, "v"))
		if err != nil {
			return nil, fmt.Errorf("talos version %q on offer: %w; write it like v1.13.9", v, err)
		}
		f.versions = append(f.versions, parsed)
	}
	semver.Sort(f.versions)
	f.routes()
	return f, nil
}

// ServeHTTP answers a request.
func (f *Factory) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.down.Load() {
		http.Error(w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
		return
	}
	f.mux.ServeHTTP(w, r)
}

// SetDown makes the factory answer everything with 503 Service Unavailable, or ends that.
func (f *Factory) SetDown(down bool) { f.down.Store(down) }

// Requests counts the requests by method and route, e.g. "POST /schematics" and "GET /image/{schematic}/{version}/{path}".
// What met no route counts by its path.
func (f *Factory) Requests() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.requests)
}

type handler func(w http.ResponseWriter, r *http.Request) error

func (f *Factory) routes() {
	f.mux = http.NewServeMux()
	f.route("/schematics", map[string]handler{http.MethodPost: f.createSchematic})
	f.route("/schematics/{schematic}", map[string]handler{http.MethodGet: f.getSchematic})
	f.route("/image/{schematic}/{version}/{path}", map[string]handler{http.MethodGet: f.image, http.MethodHead: f.image})
	f.route("/versions", map[string]handler{http.MethodGet: f.listVersions})
	f.route("/version/{version}/extensions/official", map[string]handler{http.MethodGet: f.listExtensions})
	healthy := func(http.ResponseWriter, *http.Request) error { return nil }
	f.route("/healthz", map[string]handler{http.MethodGet: healthy, http.MethodHead: healthy})

	get := func(what string) map[string]handler {
		h := func(http.ResponseWriter, *http.Request) error { return notSimulated(what) }
		return map[string]handler{http.MethodGet: h, http.MethodHead: h}
	}
	f.route("/{$}", get("the web pages"))
	f.route("/pxe/{schematic}/{version}/{path}", get("PXE scripts"))
	f.route("/v2/", get("the OCI registry over HTTP"))
	f.route("/version/{version}/overlays/official", get("overlays"))
	f.route("/secureboot/signing-cert.pem", get("the SecureBoot signing certificate"))
	f.route("/oci/cosign/signing-key.pub", get("the image signing key"))
	f.route("/talosctl/", get("talosctl downloads"))
	f.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		f.count(r.Method + " " + r.URL.Path)
		http.NotFound(w, r)
	})
}

// route registers the methods of a path; others get the real router's answer.
func (f *Factory) route(pattern string, methods map[string]handler) {
	allowed := slices.Sorted(maps.Keys(methods))
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		f.count(r.Method + " " + strings.TrimSuffix(pattern, "{$}"))
		handle, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", strings.Join(append(slices.Clone(allowed), http.MethodOptions), ", "))
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		err := handle(w, r)
		if err == nil {
			return
		}
		status := internalError()
		errors.As(err, &status)
		http.Error(w, status.Message, status.Code)
	})
}

func (f *Factory) count(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests[key]++
}

func (f *Factory) createSchematic(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSchematic))
	if err != nil {
		return err
	}
	s, err := parseSchematic(body)
	if err != nil {
		return refuse(http.StatusBadRequest, "%v", err)
	}
	id, canonical, err := s.id()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.schematics[id] = s
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(struct {
		ID        string `json:"id"`
		Schematic string `json:"schematic"`
	}{id, string(canonical)})
}

func (f *Factory) getSchematic(w http.ResponseWriter, r *http.Request) error {
	s, err := f.schematic(r.PathValue("schematic"))
	if err != nil {
		return refuse(http.StatusNotFound, "schematic not found")
	}
	_, canonical, err := s.id()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, err = w.Write(canonical)
	return err
}

func (f *Factory) schematic(id string) (*schematic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.schematics[id]; s != nil {
		return s, nil
	}
	return nil, refuse(http.StatusNotFound, "schematic ID %q not found", id)
}

func (f *Factory) listVersions(w http.ResponseWriter, r *http.Request) error {
	list := []string{}
	// No version on offer here is known as broken.
	if r.URL.Query().Get("broken") != "true" {
		for _, v := range f.versions {
			list = append(list, "v"+v.String())
		}
	}
	return json.NewEncoder(w).Encode(list)
}

func (f *Factory) listExtensions(w http.ResponseWriter, r *http.Request) error {
	version, err := f.version(r.PathValue("version"))
	if err != nil {
		return err
	}
	type info struct {
		Name        string `json:"name"`
		Ref         string `json:"ref"`
		Digest      string `json:"digest"`
		Author      string `json:"author"`
		Description string `json:"description"`
	}
	list := []info{}
	for _, name := range f.extensions {
		ref := "ghcr.io/" + name + ":" + version
		list = append(list, info{name, ref, "sha256:" + sum([]byte(ref)), "Sidero Labs", name + " (simulated)"})
	}
	return json.NewEncoder(w).Encode(list)
}

// version parses a version and checks that it is on offer. It returns it with its v.
func (f *Factory) version(tag string) (string, error) {
	parsed, err := semver.Parse(strings.TrimPrefix(tag, "v"))
	if err != nil {
		return "", internalError()
	}
	if !slices.ContainsFunc(f.versions, parsed.Equals) {
		return "", refuse(http.StatusNotFound, "version %s is not available", parsed)
	}
	return "v" + parsed.String(), nil
}

// buildFailed starts the message when a schematic does not fit a version.
const buildFailed = "error enhancing profile from schematic: "

// build checks that an image can be made of a schematic for a version.
func (f *Factory) build(s *schematic, version string) error {
	for _, name := range s.Customization.SystemExtensions.OfficialExtensions {
		alias, renamed := extensionAlias(name)
		if !slices.Contains(f.extensions, name) && (!renamed || !slices.Contains(f.extensions, alias)) {
			return refuse(http.StatusBadRequest, buildFailed+"official extension %q is not available for Talos version %s", name, version)
		}
	}
	if s.Overlay.Name != "" {
		return notSimulated("overlay " + s.Overlay.Name)
	}
	return nil
}

func (f *Factory) image(w http.ResponseWriter, r *http.Request) error {
	path := r.PathValue("path")
	switch {
	case strings.HasSuffix(path, ".sigstore.json"):
		return refuse(http.StatusPaymentRequired, "enterprise signing is not enabled: signature endpoint is not available")
	case strings.HasSuffix(path, ".sha256"), strings.HasSuffix(path, ".sha512"):
		return refuse(http.StatusPaymentRequired, "enterprise not enabled: checksum endpoint is not available")
	}
	id := r.PathValue("schematic")
	s, err := f.schematic(id)
	if err != nil {
		return err
	}
	tag := r.PathValue("version")
	if _, err := semver.Parse(strings.TrimPrefix(tag, "v")); err != nil {
		return internalError()
	}
	secureBoot, err := parseImagePath(path)
	if err != nil {
		return err
	}
	version, err := f.version(tag)
	if status := (*StatusError)(nil); errors.As(err, &status) && len(s.Customization.SystemExtensions.OfficialExtensions) > 0 {
		// The real service notices while it looks the extensions up.
		return refuse(status.Code, buildFailed+"error getting official extensions: %s", status.Message)
	}
	if err != nil {
		return err
	}
	if err := f.build(s, version); err != nil {
		return err
	}
	iso, err := f.iso(Boot{Schematic: id, Version: version, SecureBoot: secureBoot, Extensions: s.Customization.SystemExtensions.OfficialExtensions})
	if err != nil {
		return err
	}
	filename := path
	if override := r.URL.Query().Get("filename"); override != "" {
		filename = override
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(iso)))
	w.Header().Set("Content-Type", "application/x-iso9660-image")
	w.Header().Set("Content-Disposition", `attachment; filename="`+filename+`"`)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = w.Write(iso)
	return err
}

// iso returns the image of boot, made once.
func (f *Factory) iso(boot Boot) ([]byte, error) {
	key := fmt.Sprintf("%s/%s/%t", boot.Schematic, boot.Version, boot.SecureBoot)
	f.mu.Lock()
	defer f.mu.Unlock()
	if iso := f.images[key]; iso != nil {
		return iso, nil
	}
	iso, err := writeISO(boot)
	if err != nil {
		return nil, fmt.Errorf("build image %s: %w", key, err)
	}
	f.images[key] = iso
	return iso, nil
}

// parseImagePath understands the names of boot images as the real service does.
func parseImagePath(path string) (secureBoot bool, err error) {
	const prefix = "error parsing profile from path: "
	rest, ok := strings.CutSuffix(path, ".iso")
	if !ok {
		for _, known := range []string{".raw", ".raw.xz", ".raw.gz", ".raw.zst", ".raw.tar.gz", ".qcow2", ".vhd", ".ova", "-uki.efi", ".tar", ".xz"} {
			if strings.HasSuffix(path, known) {
				return false, notSimulated("asset " + path)
			}
		}
		if strings.HasPrefix(path, "kernel-") || strings.HasPrefix(path, "cmdline-") {
			return false, notSimulated("asset " + path)
		}
		return false, refuse(http.StatusBadRequest, prefix+"invalid profile path: %q", path)
	}
	rest, secureBoot = strings.CutSuffix(rest, "-secureboot")
	platform, arch, ok := strings.Cut(rest, "-")
	if platform == "digital" {
		arch = strings.TrimPrefix(arch, "ocean-")
	}
	switch {
	case !ok:
		return false, refuse(http.StatusBadRequest, prefix+"invalid platform-arch: %q", rest)
	case arch == "arm64", slices.Contains([]string{"amd64", "x86_64", "i386"}, arch) && platform != "metal":
		return false, notSimulated("asset " + path)
	case !slices.Contains([]string{"amd64", "x86_64", "i386"}, arch):
		return false, refuse(http.StatusBadRequest, prefix+"invalid architecture: %q", arch)
	}
	return secureBoot, nil
}
