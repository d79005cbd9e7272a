package factory

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
)

// Installer says what an installer image reference installs, HOST/[PLATFORM-]installer[-secureboot]/SCHEMATIC:VERSION.
// Where the registry would refuse to serve the image, the error is a [*StatusError]; a reference to another host fails
// because the simulated network has no other registry.
func (f *Factory) Installer(ref string) (Boot, error) {
	host, rest, ok := strings.Cut(ref, "/")
	if !ok || rest == "" {
		return Boot{}, fmt.Errorf("installer image %q: not a reference; it must be %s/metal-installer-secureboot/SCHEMATIC:VERSION", ref, f.host)
	}
	if host != f.host {
		return Boot{}, fmt.Errorf("installer image %q: lookup %s: no such host; the sandbox serves %s only", ref, host, f.host)
	}
	if strings.Contains(rest, "@") {
		return Boot{}, fmt.Errorf("installer image %q: %w", ref, notSimulated("references by digest"))
	}
	path, tag, ok := cutLast(rest, ":")
	if !ok || tag == "" {
		tag, path = "latest", strings.TrimSuffix(rest, ":")
	}
	boot, err := f.installer(path, tag)
	if err != nil {
		return Boot{}, fmt.Errorf("installer image %q: %w", ref, err)
	}
	return boot, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// installer answers GET /v2/IMAGE/SCHEMATIC/manifests/TAG, with the checks in the real service's order.
func (f *Factory) installer(path, tag string) (Boot, error) {
	parts := strings.Split(path, "/")
	if parts[0] == "siderolabs" {
		return Boot{}, notSimulated("the image proxy")
	}
	if len(parts) != 2 {
		return Boot{}, refuse(http.StatusNotFound, "unknown registry path: %q", "/"+path+"/manifests/"+tag)
	}
	image, id := parts[0], parts[1]
	s, err := f.schematic(id)
	if err != nil {
		return Boot{}, err
	}
	name, secureBoot := strings.CutSuffix(image, "-secureboot")
	platform, ok := strings.CutSuffix(name, "-installer")
	switch {
	case name == "installer":
		platform = "metal"
	case !ok:
		return Boot{}, refuse(http.StatusBadRequest, "invalid image: %s", image)
	}
	if platform != "metal" {
		return Boot{}, notSimulated("platform " + platform)
	}
	if tag == "latest" {
		tag = f.latest()
	}
	if !strings.HasPrefix(tag, "v") {
		return Boot{}, refuse(http.StatusNotFound, "MANIFEST_UNKNOWN: manifest unknown: %s", tag)
	}
	version, err := f.version(tag[1:])
	if err != nil {
		return Boot{}, err
	}
	if err := f.build(s, version); err != nil {
		return Boot{}, err
	}
	return Boot{
		Schematic: id, Version: version, SecureBoot: secureBoot,
		Extensions: slices.Clone(s.Customization.SystemExtensions.OfficialExtensions),
	}, nil
}

// latest is the newest version that is no pre-release.
func (f *Factory) latest() string {
	for _, v := range slices.Backward(f.versions) {
		if len(v.Pre) == 0 {
			return "v" + v.String()
		}
	}
	return "v" + semver.Version{}.String()
}
