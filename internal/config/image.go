package config

import (
	"slices"
	"strings"
)

const (
	defaultFactory = "https://factory.talos.dev"
	idDigits       = 64 // of a schematic, in hex
	guestAgent     = "siderolabs/qemu-guest-agent"
	// plainSchematic is the factory's schematic without any customization.
	plainSchematic = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba"
)

func defaultExtensions() []string {
	return []string{"siderolabs/nfs-utils", guestAgent}
}

func (c *checker) image(raw rawImage) Image {
	image := Image{
		Factory:   c.httpsURL("cluster.image.factory", or(raw.Factory, defaultFactory), ""),
		Schematic: c.schematic(raw),
		Checksum:  c.checksum(raw.Checksum),
		Eject:     or(raw.Eject, false),
	}

	switch {
	case raw.Extensions != nil:
		image.Extensions = c.extensions(raw.Extensions, raw.Schematic == nil)
	case raw.Schematic == nil && !c.isBad("cluster.image.schematic"):
		image.Extensions = defaultExtensions()
	}

	return image
}

func (c *checker) schematic(raw rawImage) string {
	const path = "cluster.image.schematic"

	id := or(raw.Schematic, "")

	switch {
	case raw.Schematic == nil:
	case !isHex(id, idDigits):
		suggestion := "the Image Factory shows the ID of a schematic"
		if lower := strings.ToLower(strings.TrimSpace(id)); isHex(lower, idDigits) {
			suggestion = write(lower)
		}

		c.reject(path, id, "a schematic ID of 64 lower-case hex digits", suggestion)
	case raw.Extensions != nil:
		c.reject(path, id, "allowed together with extensions", "remove extensions, because a schematic names its own, or remove schematic to have one made of extensions")
	case id == plainSchematic:
		c.reject(path, id, "a schematic with "+guestAgent, "it is the plain image; creating a machine waits for the guest agent, so make a schematic that has it or remove the key")
	}

	return id
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

func isChecksum(s string) bool {
	algorithm, sum, _ := strings.Cut(s, ":")

	return algorithm == "sha256" && isHex(sum, 64) || algorithm == "sha512" && isHex(sum, 128)
}

func (c *checker) checksum(raw *string) string {
	sum := or(raw, "")
	if raw == nil || isChecksum(sum) {
		return sum
	}

	suggestion := ""

	switch lower := strings.ToLower(sum); {
	case isChecksum(lower):
		suggestion = write(lower)
	case isHex(lower, 64):
		suggestion = write("sha256:" + lower)
	case isHex(lower, 128):
		suggestion = write("sha512:" + lower)
	}

	c.reject("cluster.image.checksum", sum, "a checksum written sha256:<64 hex digits> or sha512:<128 hex digits>", suggestion)

	return sum
}

// extensions come out sorted, because the schematic's ID depends on their order and a mere reordering shall change nothing.
func (c *checker) extensions(raw []string, agentNeeded bool) []string {
	const path = "cluster.image.extensions"

	before := len(c.defects)
	extensions := make([]string, 0, len(raw))

	for i, name := range raw {
		item := index(path, i)

		switch {
		case c.isBad(item):
			agentNeeded = false
		case !slices.Contains(officialExtensions(), name):
			c.reject(item, name, "an official extension of Talos "+supportedTalos, suggestExtension(name))
		case slices.Contains(extensions, name):
			c.reject(item, name, "given once", "remove it")
		default:
			extensions = append(extensions, name)
		}
	}

	if agentNeeded && len(c.defects) == before && !slices.Contains(extensions, guestAgent) {
		c.add(Defect{
			Path: path, Value: "[" + strings.Join(extensions, ", ") + "]", Expected: "a list with " + guestAgent,
			Suggestion: "add it, because creating a machine waits until its guest agent reports an address",
		})
	}

	slices.Sort(extensions)

	return extensions
}

func suggestExtension(name string) string {
	short := name[strings.LastIndexByte(name, '/')+1:]

	if short == "nfs-mount" {
		return "an extension of this name does not exist; NFS client support is siderolabs/nfs-utils, write that"
	}

	known := officialExtensions()
	shorts := make([]string, len(known))

	for i, full := range known {
		shorts[i] = strings.TrimPrefix(full, "siderolabs/")
	}

	if near := nearest(short, shorts); near != "" {
		return write("siderolabs/" + near)
	}

	return "the list is at https://github.com/siderolabs/extensions"
}
