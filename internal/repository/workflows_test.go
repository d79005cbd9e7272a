package repository

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflows returns the paths of the GitHub workflows.
func workflows(t *testing.T) (names []string) {
	t.Helper()
	for _, name := range files(t) {
		if path.Dir(name) == ".github/workflows" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		t.Fatal("no workflows")
	}
	return names
}

func TestWorkflowsPassActionlint(t *testing.T) {
	for _, name := range workflows(t) {
		for _, defect := range lint(t, name, read(t, name)) {
			t.Errorf("%s:%d:%d: %s [%s]", name, defect.Line, defect.Column, defect.Message, defect.Kind)
		}
	}
}

// defect is what actionlint finds.
type defect struct {
	Message string `json:"message"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Kind    string `json:"kind"`
}

// lint runs the actionlint that internal/tools/actionlint pins; Go builds it on first use (seconds) and keeps it.
func lint(t *testing.T, name string, content []byte) (defects []defect) {
	t.Helper()
	// Neither shellcheck nor pyflakes is looked for: the result must not depend on the machine.
	cmd := exec.CommandContext(t.Context(), "go", "tool", "actionlint", "-shellcheck=", "-pyflakes=", "-format={{json .}}", "-stdin-filename="+name, "-")
	cmd.Dir = filepath.Join(root, "internal", "tools", "actionlint")
	cmd.Stdin = bytes.NewReader(content)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	// Status 1 says that there are findings.
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("actionlint: %v\n%s", err, &stderr)
	}
	if err := json.Unmarshal(out, &defects); err != nil {
		t.Fatalf("actionlint: %v\n%s%s", err, out, &stderr)
	}
	return defects
}

func TestActionlintIsAwake(t *testing.T) {
	defects := lint(t, "planted.yml", []byte("on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: echo ${{ github.event.pull_request.title }}\n"))
	if len(defects) != 1 || !strings.Contains(defects[0].Message, "untrusted") {
		t.Errorf("a planted script injection: got %+v", defects)
	}
}

var (
	uses   = regexp.MustCompile(`(?m)^\s*(?:- )?uses:\s*(.*)$`)
	pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
)

// unpinned returns the values of `uses` that name no full commit with its version. The repository's own actions need none.
func unpinned(content []byte) (found []string) {
	for _, match := range uses.FindAllSubmatch(content, -1) {
		if value := string(match[1]); !strings.HasPrefix(value, "./") && !pinned.MatchString(value) {
			found = append(found, value)
		}
	}
	return found
}

func TestActionsArePinned(t *testing.T) {
	versions := map[string]string{}
	for _, name := range files(t) {
		if !strings.HasPrefix(name, ".github/") || path.Ext(name) != ".yml" && path.Ext(name) != ".yaml" {
			continue
		}
		content := read(t, name)
		for _, value := range unpinned(content) {
			t.Errorf("%s: uses: %s; want OWNER/NAME@40-HEX-COMMIT # vX.Y.Z", name, value)
		}
		for _, match := range uses.FindAllSubmatch(content, -1) {
			action, version, _ := strings.Cut(string(match[1]), "@")
			if known, seen := versions[action]; seen && known != version {
				t.Errorf("%s: %s@%s, elsewhere %s; use one version", name, action, version, known)
			}
			versions[action] = version
		}
	}
}

func TestUnpinnedActionsAreFound(t *testing.T) {
	for value, ok := range map[string]bool{
		"actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1": true,
		"./.github/actions/own": true,
		"actions/checkout@v7":   false,
		"actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1":      false,
		"actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7": false,
		"actions/checkout@3d3c42e # v7.0.1":                              false,
		"docker://alpine:3.22":                                           false,
	} {
		if found := unpinned([]byte("steps:\n  - uses: " + value + "\n")); (len(found) == 0) != ok {
			t.Errorf("%s: got %q, want accepted %t", value, found, ok)
		}
	}
}

// TestWorkflowsTakeNoMoreThanTheyNeed holds the line between code of strangers and tokens that can write.
func TestWorkflowsTakeNoMoreThanTheyNeed(t *testing.T) {
	type steps []struct {
		Uses string         `yaml:"uses"`
		With map[string]any `yaml:"with"`
	}
	for _, name := range workflows(t) {
		var workflow struct {
			On          yaml.Node         `yaml:"on"`
			Permissions map[string]string `yaml:"permissions"`
			Jobs        map[string]struct {
				If          string            `yaml:"if"`
				Timeout     int               `yaml:"timeout-minutes"`
				Permissions map[string]string `yaml:"permissions"`
				Environment any               `yaml:"environment"`
				Steps       steps             `yaml:"steps"`
			} `yaml:"jobs"`
		}
		content := read(t, name)
		if err := yaml.Unmarshal(content, &workflow); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		triggers, err := yaml.Marshal(&workflow.On)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(triggers), "pull_request_target") {
			t.Errorf("%s: pull_request_target gives strangers' code a token; use pull_request and workflow_run", name)
		}
		if workflow.Permissions == nil || len(workflow.Permissions) != 0 {
			t.Errorf("%s: want `permissions: {}` at the top and each job's own below", name)
		}
		fromPull := strings.Contains(string(triggers), "pull_request")
		for id, job := range workflow.Jobs {
			if job.Timeout == 0 {
				t.Errorf("%s: job %s: no timeout-minutes", name, id)
			}
			for scope, access := range job.Permissions {
				if fromPull && access == "write" {
					t.Errorf("%s: job %s runs a pull request's code with %s: write", name, id, scope)
				}
			}
			for _, step := range job.Steps {
				if strings.HasPrefix(step.Uses, "actions/checkout@") && step.With["persist-credentials"] != false {
					t.Errorf("%s: job %s: checkout keeps its token in .git; set persist-credentials: false", name, id)
				}
			}
		}
		if fromPull && strings.Contains(string(content), "secrets.") {
			for id, job := range workflow.Jobs {
				if job.Environment != nil && !strings.Contains(job.If, "head.repo.full_name == github.repository") {
					t.Errorf("%s: job %s has an environment's secrets and does not exclude forks", name, id)
				}
			}
		}
	}
}
