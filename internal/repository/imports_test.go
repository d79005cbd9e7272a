package repository

import (
	"fmt"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"
)

// rule is one of depguard's rules in .golangci.yml, where the import law is written down.
type rule struct {
	name     string
	ListMode string   `yaml:"list-mode"`
	Files    []string `yaml:"files"`
	Deny     []struct {
		Package string `yaml:"pkg"`
		Why     string `yaml:"desc"`
	} `yaml:"deny"`
}

func importLaw(t *testing.T) []rule {
	t.Helper()
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]rule `yaml:"rules"`
				} `yaml:"depguard"`
			} `yaml:"settings"`
		} `yaml:"linters"`
	}
	if err := yaml.Unmarshal(read(t, ".golangci.yml"), &config); err != nil {
		t.Fatalf(".golangci.yml: %v", err)
	}
	var law []rule
	for name, rule := range config.Linters.Settings.Depguard.Rules {
		rule.name = name
		if rule.ListMode != "lax" {
			t.Errorf("rule %s: list-mode %q; this test reads deny lists (lax) only", name, rule.ListMode)
		}
		law = append(law, rule)
	}
	slices.SortFunc(law, func(a, b rule) int { return strings.Compare(a.name, b.name) })
	return law
}

// applies decides as depguard does: a file matches one of the patterns and none of the negated ones.
func (r rule) applies(t *testing.T, file string) bool {
	t.Helper()
	applies := false
	for _, pattern := range r.Files {
		pattern, negated := strings.CutPrefix(pattern, "!")
		switch pattern {
		case "$all":
			pattern = "**/*.go"
		case "$test":
			pattern = "**/*_test.go"
		}
		match, err := doublestar.Match(pattern, "/"+file)
		if err != nil {
			t.Fatalf("rule %s: pattern %q: %v", r.name, pattern, err)
		}
		if match && negated {
			return false
		}
		applies = applies || match
	}
	return applies
}

// breaches returns what the law says against file importing pkg.
func breaches(t *testing.T, law []rule, file, pkg string) (found []string) {
	t.Helper()
	for _, rule := range law {
		if !rule.applies(t, file) {
			continue
		}
		for _, deny := range rule.Deny {
			if pkg == deny.Package || strings.HasPrefix(pkg, deny.Package+"/") {
				found = append(found, fmt.Sprintf("%s imports %s: %s (rule %s in .golangci.yml)", file, pkg, deny.Why, rule.name))
			}
		}
	}
	return found
}

func TestImportLaw(t *testing.T) {
	law := importLaw(t)
	for _, name := range files(t) {
		if path.Ext(name) != ".go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, spec := range file.Imports {
			pkg, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, breach := range breaches(t, law, name, pkg) {
				t.Error(breach)
			}
		}
		for _, vague := range []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "lib"} {
			if file.Name.Name == vague {
				t.Errorf("%s: package %s says nothing; name it by what it is about", name, vague)
			}
		}
	}
}

// TestImportLawForbids shows that the rules say what design and documentation say, whatever the code does today.
func TestImportLawForbids(t *testing.T) {
	const (
		proxmoxSDK = "github.com/muhlba91/pulumi-proxmoxve/sdk/v6/go/proxmoxve/vm"
		talosSDK   = "github.com/pulumiverse/pulumi-talos/sdk/go/talos/machine"
		pulumiSDK  = "github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	)
	tests := []struct {
		file, pkg string
		allowed   bool
	}{
		{"internal/proxmox/vm.go", "cloudlab/internal/talos", false},
		{"internal/proxmox/vm.go", "cloudlab/internal/talos/patches", false},
		{"internal/proxmox/vm_test.go", "cloudlab/internal/stack", false},
		{"internal/proxmox/vm.go", "cloudlab/internal/sandbox/pve", false},
		{"internal/proxmox/vm.go", "cloudlab/internal/config", true},
		{"internal/proxmox/vm.go", proxmoxSDK, true},
		{"internal/talos/talos.go", "cloudlab/internal/proxmox", false},
		{"internal/talos/talos.go", talosSDK, true},
		{"internal/stack/deploy.go", "cloudlab/internal/proxmox", true},
		{"internal/stack/deploy.go", "cloudlab/internal/sandbox", false},
		{"internal/stack/deploy_test.go", "cloudlab/internal/sandbox", true},
		{"internal/cmd/sandbox/main.go", "cloudlab/internal/sandbox", true},
		{"internal/sandbox/sandbox.go", "cloudlab/internal/sandbox/lan", true},
		{"internal/sandbox/sandbox.go", "cloudlab/internal/stack", false},
		{"internal/sandbox/machine/machine.go", "cloudlab/internal/talos", false},
		{"internal/sandbox/pve/guest.go", proxmoxSDK, false},
		{"internal/sandbox/machine/machine.go", "github.com/siderolabs/talos/pkg/machinery/config", true},
		{"internal/config/load.go", pulumiSDK, true},
		{"internal/config/parse.go", pulumiSDK, false},
		{"internal/config/parse.go", talosSDK, false},
		{"internal/config/load.go", proxmoxSDK, false},
		{"internal/sopsfile/write.go", pulumiSDK, false},
		{"internal/sopsfile/write.go", talosSDK, false},
		{"internal/manifests/load.go", pulumiSDK, false},
		{"internal/manifests/load.go", "cloudlab/internal/sandbox", false},
		{"main.go", pulumiSDK, true},
		{"main.go", "cloudlab/internal/sandbox", false},
	}
	law := importLaw(t)
	for _, test := range tests {
		if found := breaches(t, law, test.file, test.pkg); (len(found) == 0) != test.allowed {
			t.Errorf("%s imports %s: breaches %q, want allowed %t", test.file, test.pkg, found, test.allowed)
		}
	}
}
