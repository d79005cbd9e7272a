package config

import (
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
)

// maxReason bounds how much of Talos' own explanation is shown, in runes.
const maxReason = 240

// patches checks that each is a strategic merge patch of one or more YAML documents which Talos knows.
func (c *checker) patches(path string, raw []string) []string {
	const expected = "a Talos config patch in YAML"

	for i, patch := range raw {
		item := index(path, i)

		switch trimmed := strings.TrimSpace(patch); {
		case c.isBad(item):
			continue
		case trimmed == "":
			c.reject(item, patch, expected, "remove it")

			continue
		case strings.HasPrefix(trimmed, "@"), !strings.ContainsAny(trimmed, "\n ") && !strings.HasPrefix(trimmed, "{") && !strings.HasPrefix(trimmed, "["):
			// Talos's loader would take either for the name of a file.
			c.reject(item, patch, expected, "it reads like the name of a file, write the content itself")

			continue
		}

		loaded, err := configpatcher.LoadPatch([]byte(patch))
		if err != nil {
			reason := shortenTo(strings.Join(strings.Fields(err.Error()), " "), maxReason)
			if strings.HasSuffix(reason, "missing kind") {
				reason += "; a document without kind has the keys machine and cluster only"
			}

			c.reject(item, patch, expected, reason)

			continue
		}

		if _, ok := loaded.(configpatcher.StrategicMergePatch); !ok {
			c.reject(item, patch, expected, "it is a JSON patch, which Talos refuses for configurations of several documents; write the changed keys as YAML")
		}
	}

	return raw
}
