package config

import (
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/compatibility"
)

const (
	defaultTalos      = "v1.13.9"
	defaultKubernetes = "v1.36.4"
	supportedTalos    = "v1.13"
)

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
	if isVersion(v) {
		return v
	}

	suggestion := "write it as " + byDefault + " is"

	trimmed := strings.TrimLeft(strings.TrimSpace(v), "vV")
	for _, candidate := range []string{"v" + trimmed, "v" + trimmed + ".0"} {
		if isVersion(candidate) {
			suggestion = write(candidate)

			break
		}
	}

	c.reject(path, v, "a released version with a leading v and three numbers", suggestion)

	return ""
}

// isVersion tells whether a string is v<major>.<minor>.<patch>, without a pre-release or build.
func isVersion(s string) bool {
	const maxDigits = 4

	numbers, found := strings.CutPrefix(s, "v")

	return found && strings.Count(numbers, ".") == 2 && each(numbers, ".", func(number string) bool {
		return spelt(number, maxDigits, "0123456789", "0123456789") && (number == "0" || number[0] != '0')
	})
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
