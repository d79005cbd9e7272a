package toolchain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// Name is the file name of a tool's executable.
type Name string

// The tools that Cloudlab uses.
const (
	Pulumi    Name = "pulumi"
	Proxmoxve Name = "pulumi-resource-proxmoxve"
	Talos     Name = "pulumi-resource-talos"
	Talosctl  Name = "talosctl"
	SOPS      Name = "sops"
	Age       Name = "age"
	AgeKeygen Name = "age-keygen"
)

// Tool says what a tool is, how to build it and when an installed one will do.
type Tool struct {
	Name    Name
	Module  string // folder of the go.mod that pins the tool's sources, relative to the project, with slashes
	Package string // what `go build` is asked for in that folder
	Version string // pinned version, with a leading v

	// VersionVariable is the Go variable that the version must be linked into, empty when the sources know it.
	VersionVariable string

	// Plugin is the name of the Pulumi package that the tool is the resource plugin of, empty for a command.
	Plugin string

	// Probe are the arguments that make an installed command print its version without using the network.
	Probe []string
	// Accept decides which version of an installed tool will do.
	Accept Rule
}

// Rule compares the version found with the pinned one.
type Rule int

const (
	// SamePatch accepts the pinned version only. A program asks the engine for plugins by exact version.
	SamePatch Rule = iota
	// SameMinor accepts the pinned version and later patches of it: for tools that speak a protocol whose other end
	// is pinned too.
	SameMinor
	// SameMajor accepts the pinned version and everything later with its major version: for tools whose file format
	// is stable.
	SameMajor
)

func (r Rule) accepts(pinned, found string) bool {
	if !semver.IsValid(found) || semver.Prerelease(found) != "" || semver.Compare(found, pinned) < 0 {
		return false
	}
	switch r {
	case SameMinor:
		return semver.MajorMinor(found) == semver.MajorMinor(pinned)
	case SameMajor:
		return semver.Major(found) == semver.Major(pinned)
	default:
		return semver.Compare(found, pinned) == 0
	}
}

// Tools is the table of all tools.
func Tools() []Tool {
	return []Tool{
		{
			Name: Pulumi, Module: "internal/tools/pulumi", Package: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
			Version: "v3.259.0", VersionVariable: "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
			Probe: []string{"version"}, Accept: SameMinor,
		},
		// The plugins carry their version in their own sources.
		{
			Name: Proxmoxve, Module: "internal/tools/pulumi", Package: "./proxmoxve",
			Version: "v6.18.1", Plugin: "proxmoxve",
		},
		{Name: Talos, Module: "internal/tools/pulumi", Package: "./talos", Version: "v0.7.1", Plugin: "talos"},
		// talosctl takes its version from the machinery module.
		{
			Name: Talosctl, Module: "internal/tools/clients", Package: "github.com/siderolabs/talos/cmd/talosctl",
			Version: "v1.13.0", Probe: []string{"version", "--client", "--short"}, Accept: SameMinor,
		},
		{
			Name: SOPS, Module: "internal/tools/clients", Package: "github.com/getsops/sops/v3/cmd/sops",
			Version: "v3.13.3", Probe: []string{"--version", "--disable-version-check"}, Accept: SameMajor,
		},
		{
			Name: Age, Module: "internal/tools/clients", Package: "filippo.io/age/cmd/age",
			Version: "v1.3.2", VersionVariable: "main.Version", Probe: []string{"--version"}, Accept: SameMajor,
		},
		{
			Name: AgeKeygen, Module: "internal/tools/clients", Package: "filippo.io/age/cmd/age-keygen",
			Version: "v1.3.2", VersionVariable: "main.Version", Probe: []string{"--version"}, Accept: SameMajor,
		},
	}
}

// ldflags strip the symbol tables, which halves the size, and link the version in.
func (t Tool) ldflags() string {
	flags := "-s -w"
	if t.VersionVariable != "" {
		flags += " -X " + t.VersionVariable + "=" + t.Version
	}
	return flags
}

// pluginDir is the folder below plugins/ in which Pulumi looks for the plugin.
func (t Tool) pluginDir() string {
	return "resource-" + t.Plugin + "-" + t.Version
}

// pick returns the wanted tools of the table, all of them when none is named.
func pick(table []Tool, wanted []Name) ([]Tool, error) {
	if len(wanted) == 0 {
		return table, nil
	}
	var picked []Tool
	for _, name := range wanted {
		i := slices.IndexFunc(table, func(t Tool) bool { return t.Name == name })
		if i < 0 {
			known := make([]string, len(table))
			for i, t := range table {
				known[i] = string(t.Name)
			}
			return nil, fmt.Errorf("unknown tool %q: it is one of %s", name, strings.Join(known, ", "))
		}
		if !slices.ContainsFunc(picked, func(t Tool) bool { return t.Name == name }) {
			picked = append(picked, table[i])
		}
	}
	return picked, nil
}

// findVersion returns the first version in what a tool printed, with a leading v; empty when there is none.
func findVersion(output string) string {
	found := regexp.MustCompile(`\bv?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)`).FindStringSubmatch(output)
	if found == nil {
		return ""
	}
	return "v" + found[1]
}
