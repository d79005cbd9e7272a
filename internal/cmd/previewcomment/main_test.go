package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	one := "Previewing update (sandbox):\n@ previewing update....\n+ a\n  ```\n    [provider=urn:x]\nend\nResources:\n    ~ 1 to update\n    14 unchanged\n✔ preview: 1 change\n"
	got := render([]section{{"One", one}, {"Two", "error: no such host"}}, "https://example.com/run/1")
	want := marker + "\n## Preview\n" +
		"\n### One\n\n**1 to update**, 14 unchanged\n\n<details><summary>What changes</summary>\n" +
		"\n````text\n+ a\n  ```\nend\nResources:\n    ~ 1 to update\n    14 unchanged\n````\n\n</details>\n" +
		"\n### Two\n\n**The preview failed.**\n\n```text\nerror: no such host\n```\n\n[Workflow run](https://example.com/run/1)\n"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestSum(t *testing.T) {
	tests := map[string]struct {
		text, want string
		ok         bool
	}{
		"several kinds": {"x\nResources:\n    + 2 to create\n    ~ 1 to update\n    - 3 to delete\n    +-4 to replace\n    10 changes. 5 unchanged", "**2 to create, 1 to update, 3 to delete, 4 to replace**, 5 unchanged", true},
		"no change":     {"Resources:\n    15 unchanged", "**No changes**, 15 unchanged", true},
		"the last sum":  {"Resources:\n    1 unchanged\nResources:\n    2 unchanged", "**No changes**, 2 unchanged", true},
		"error":         {"Resources:\n    + 2 to create\n    1 errored", "**The preview failed.**", false},
		"nothing":       {"panic", "**The preview failed.**", false},
		"markup":        {"Resources:\n    1 to <b>", "**No changes**, 0 unchanged", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, ok := sum(test.text); got != test.want || ok != test.ok {
				t.Errorf("got %q, %t; want %q, %t", got, ok, test.want, test.ok)
			}
		})
	}
}

func TestClean(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"colours":          {"\x1b[1;32m+ vm\x1b[0m\n", "+ vm"},
		"terminal link":    {"\x1b]8;;https://evil.example\x07click\x1b]8;;\x1b\\", "click"},
		"cursor":           {"a\x1b[2K\rb", "ab"},
		"reordering":       {"a\u202eb\u2066c", "abc"},
		"invalid bytes":    {"a\xffb", "a�b"},
		"Windows lines":    {"a\r\nb", "a\nb"},
		"indent and table": {"  + a\n\t- b", "  + a\n\t- b"},
		"umlauts":          {"größer ≥ 1", "größer ≥ 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := clean(test.text); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// FuzzRender shows that no text leaves its fence and that the comment stays within GitHub's bound.
func FuzzRender(f *testing.F) {
	for _, seed := range []string{"", "```\n@everyone", "`", strings.Repeat("`", 70_000), strings.Repeat("ä\n", 70_000), "\x1b[", "~~~\n</details>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		body := render([]section{{"One", text}, {"Two", text}}, "https://example.com")
		if n := len([]rune(body)); n > 65_536 {
			t.Errorf("%d characters", n)
		}
		var open string
		titles := 0
		for line := range strings.Lines(body) {
			line = strings.TrimSuffix(line, "\n")
			ticks := len(line) - len(strings.TrimLeft(line, "`"))
			switch {
			case open == "" && ticks >= 3:
				open = line[:ticks]
			case open != "" && ticks >= len(open) && strings.Trim(line, "` ") == "":
				open = ""
			case open == "" && strings.HasPrefix(line, "### "):
				titles++
			}
		}
		if open != "" || titles != 2 {
			t.Errorf("text left its fence: %d titles, open fence %q", titles, open)
		}
	})
}

func TestReadSections(t *testing.T) {
	dir := t.TempDir()
	if _, err := readSections(dir); err == nil || !strings.Contains(err.Error(), "preview.sh") {
		t.Errorf("empty folder: %v", err)
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(dir, "sandbox.txt")); err != nil {
		t.Fatal(err)
	}
	if _, err := readSections(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("link: %v", err)
	}
}

// api is GitHub with one repository; it fails the test on any request that the command has no business to make.
type api struct {
	t        *testing.T
	pulls    string
	comments []comment
	writes   []string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer token" {
		a.t.Errorf("authorization %q", r.Header.Get("Authorization"))
	}
	switch route := r.Method + " " + r.URL.Path; route {
	case "GET /repos/o/r/pulls":
		if got := r.URL.Query().Get("head"); got != "fork:feature/a&b" {
			a.t.Errorf("head %q", got)
		}
		fmt.Fprint(w, a.pulls)
	case "GET /repos/o/r/issues/7/comments":
		from, to := 0, min(100, len(a.comments))
		if r.URL.Query().Get("page") == "2" {
			from, to = to, len(a.comments)
		}
		_ = json.NewEncoder(w).Encode(a.comments[from:to])
	case "POST /repos/o/r/issues/7/comments", "PATCH /repos/o/r/issues/comments/42":
		a.writes = append(a.writes, route)
		fmt.Fprint(w, "{}")
	default:
		http.Error(w, "unexpected", http.StatusNotFound)
		a.t.Errorf("unexpected request %s", route)
	}
}

func TestPost(t *testing.T) {
	mine := comment{ID: 42, Body: marker + "\nold"}
	mine.User.Login = author
	forged := comment{ID: 1, Body: marker + "\nforged"}
	forged.User.Login = "someone"
	current := `[{"number": 7, "head": {"sha": "abc"}}]`
	tests := map[string]struct {
		pulls    string
		comments []comment
		want     string
	}{
		"first":                 {current, nil, "POST /repos/o/r/issues/7/comments"},
		"update":                {current, []comment{forged, mine}, "PATCH /repos/o/r/issues/comments/42"},
		"second page":           {current, append(make([]comment, 100), mine), "PATCH /repos/o/r/issues/comments/42"},
		"someone else's marker": {current, []comment{forged}, "POST /repos/o/r/issues/7/comments"},
		"moved on":              {`[{"number": 7, "head": {"sha": "def"}}]`, nil, ""},
		"closed":                {`[]`, nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			api := &api{t: t, pulls: test.pulls, comments: test.comments}
			if err := post(t, api, `{"workflow_run": {"head_sha": "abc", "head_branch": "feature/a&b", "head_repository": {"owner": {"login": "fork"}}}}`); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(api.writes, "\n"); got != test.want {
				t.Errorf("wrote %q, want %q", got, test.want)
			}
		})
	}
}

func TestPostNeedsAWorkflowRun(t *testing.T) {
	err := post(t, &api{t: t}, `{"pull_request": {"number": 7}}`)
	if err == nil || !strings.Contains(err.Error(), "workflow_run only") {
		t.Errorf("got %v", err)
	}
}

func post(t *testing.T, api *api, event string) error {
	t.Helper()
	server := httptest.NewServer(api)
	defer server.Close()
	dir := t.TempDir()
	for name, content := range map[string]string{"sandbox.txt": "no changes", "event.json": event} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{
		"GITHUB_EVENT_PATH": filepath.Join(dir, "event.json"), "GITHUB_API_URL": server.URL, "GITHUB_TOKEN": "token", "GITHUB_REPOSITORY": "o/r",
	}
	return run(t.Context(), []string{"post", dir}, func(key string) string { return env[key] }, &bytes.Buffer{})
}
