package config

import (
	"regexp"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/compatibility"
)

const (
	defaultTalos      = "v1.13.9"
	defaultKubernetes = "v1.36.4"
	supportedTalos    = "v1.13"
)

var version = regexp.MustCompile(`^v(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$`)

// versions checks the two versions and that they go together.
func (c *checker) versions(raw rawCluster) (talos, kubernetes string) {
	talos = c.version("cluster.talosVersion", raw.TalosVersion, defaultTalos)
	kubernetes = c.version("cluster.kubernetesVersion", raw.KubernetesVersion, defaultKubernetes)

	if talos == "" {
		return talos, kubernetes
	}

	if !strings.HasPrefix(talos, supportedTalos+".") {
		c.reject("cluster.talosVersion", talos, "a release of Talos "+supportedTalos+", the line this program supports", write(defaultTalos))

		return talos, kubernetes
	}

	if kubernetes == "" {
		return talos, kubernetes
	}

	if err := supported(talos, kubernetes); err != nil {
		c.reject("cluster.kubernetesVersion", kubernetes, "a release that Talos "+talos+" runs", err.Error()+"; the default is "+defaultKubernetes)
	}

	return talos, kubernetes
}

// version checks a version's form; it returns "" when it is bad.
func (c *checker) version(path string, raw *string, byDefault string) string {
	v := or(raw, byDefault)
	if version.MatchString(v) {
		return v
	}

	suggestion := "write it as " + byDefault + " is"

	trimmed := strings.TrimLeft(strings.TrimSpace(v), "vV")
	for _, candidate := range []string{"v" + trimmed, "v" + trimmed + ".0"} {
		if version.MatchString(candidate) {
			suggestion = write(candidate)

			break
		}
	}

	c.reject(path, v, "a released version with a leading v and three numbers", suggestion)

	return ""
}

// supported asks Talos machinery whether a pair of versions goes together.
func supported(talos, kubernetes string) error {
	target, err := compatibility.ParseTalosVersion(&machine.VersionInfo{Tag: talos})
	if err != nil {
		return err
	}

	v, err := compatibility.ParseKubernetesVersion(strings.TrimPrefix(kubernetes, "v"))
	if err != nil {
		return err
	}

	return v.SupportedWith(target)
}
