package repository

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/sandbox/pve"
)

// The two commands that a newcomer types.
const (
	upCommand   = "go run ./internal/cmd/sandbox up"
	testCommand = "go test -timeout 60m ./..."
)

func TestReadmeStartsWithTheTwoCommands(t *testing.T) {
	page := string(read(t, "README.md"))
	block := "```sh\n" + upCommand + "\n" + testCommand + "\n```\n"
	at := strings.Index(page, block)
	if at < 0 {
		t.Fatalf("README.md lacks the block\n%s", block)
	}
	if first := strings.Index(page, "\n## "); first < at {
		t.Error("the two commands do not stand before the first section of README.md")
	}
}

func TestContinuousIntegrationRunsTheReadmesTests(t *testing.T) {
	for line := range strings.Lines(string(read(t, ".ci/run"))) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "step ") && strings.HasSuffix(line, `" `+testCommand) {
			return
		}
	}
	t.Errorf(".ci/run has no step that calls %q", testCommand)
}

// TestReadmePrintsTheMinimalRole: what the README tells the operator to grant is what the sandbox grants.
func TestReadmePrintsTheMinimalRole(t *testing.T) {
	roles := regexp.MustCompile(`(?m)^pveum role add \S+ --privs "([^"]*)"$`).FindAllStringSubmatch(string(read(t, "README.md")), -1)
	if len(roles) != 1 {
		t.Fatalf("README.md has %d `pveum role add` commands, want 1", len(roles))
	}
	want := slices.Sorted(slices.Values(pve.MinimalRole()))
	got := slices.Sorted(slices.Values(strings.FieldsFunc(roles[0][1], func(r rune) bool { return r == ',' || r == ' ' })))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("privileges (-pve.MinimalRole +README):\n%s", diff)
	}
}

// subcommands are those that the sandbox's command line declares.
func subcommands(t *testing.T) []string {
	t.Helper()
	declared := regexp.MustCompile(`(?:o\.operation\(|Use:\s+)"([a-z]+)`)
	var names []string
	for _, name := range files(t) {
		if !strings.HasPrefix(name, "internal/cmd/sandbox/") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, match := range declared.FindAllSubmatch(read(t, name), -1) {
			names = append(names, string(match[1]))
		}
	}
	if len(names) < 9 {
		t.Fatalf("found only the sandbox commands %v", names)
	}
	return names
}

func TestDocumentedSandboxCommandsExist(t *testing.T) {
	existing := subcommands(t)
	mentioned := regexp.MustCompile("(?:internal/cmd/sandbox|mise run sandbox|`sandbox) ([a-z]+)")
	for _, name := range files(t) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, match := range mentioned.FindAllSubmatch(read(t, name), -1) {
			if !slices.Contains(existing, string(match[1])) {
				t.Errorf("%s: `sandbox %s` does not exist; there are %v", name, match[1], existing)
			}
		}
	}
	for _, name := range []string{"up", "preview", "refresh", "destroy", "status", "env", "fault", "logs", "down"} {
		if !strings.Contains(string(read(t, "README.md")), "| `sandbox "+name+"` |") {
			t.Errorf("README.md: the table of commands lacks `sandbox %s`", name)
		}
	}
}

// TestDocumentedTasksExist: a task that a page tells to run is in mise.toml.
func TestDocumentedTasksExist(t *testing.T) {
	tasks := readMise(t).Tasks
	mentioned := regexp.MustCompile(`mise run ([a-z]+(?::[a-z-]+)*)`)
	for _, name := range files(t) {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, match := range mentioned.FindAllSubmatch(read(t, name), -1) {
			if _, ok := tasks[string(match[1])]; !ok {
				t.Errorf("%s: `mise run %s` is no task of mise.toml", name, match[1])
			}
		}
	}
}

// TestArchitectureIsDrawnOnce: picture and text name the same boxes.
func TestArchitectureIsDrawnOnce(t *testing.T) {
	labels := func(name, pattern string) []string {
		var all []string
		for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(read(t, name), -1) {
			all = append(all, string(match[1]))
		}
		return slices.Sorted(slices.Values(all))
	}
	drawn := labels("docs/architecture.svg", `<text class="name"[^>]*>([^<]+)</text>`)
	written := labels("docs/architecture.md", `(?m)^ +[a-z]+\["([^"]+)"\]$`)
	if len(drawn) < 10 {
		t.Fatalf("the picture has only the boxes %v", drawn)
	}
	if diff := cmp.Diff(drawn, written); diff != "" {
		t.Errorf("boxes (-architecture.svg +architecture.md):\n%s", diff)
	}
	groups := labels("docs/architecture.svg", `<text class="title"[^>]*>([^<]+)</text>`)
	if diff := cmp.Diff(groups, labels("docs/architecture.md", `(?m)^ +subgraph [a-z]+ \["?([^"\]]+)"?\]$`)); diff != "" {
		t.Errorf("groups (-architecture.svg +architecture.md):\n%s", diff)
	}
}
