package repository

import (
	"bytes"
	"go/format"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cloudlab/internal/sopsfile"
)

// root is the repository, seen from this package's folder, which is where its tests run.
const root = "../.."

// ignored are folders and files that .gitignore keeps out of git; ignoredMatches checks that it still does.
var ignored = []string{".git", ".sandbox", "bin", ".age-key.txt", "kubeconfig", "talosconfig", "machine-secrets.yaml", ".mise.local.toml", ".trust.pem"}

// files returns every file of the repository by its slash-separated path from the root, sorted.
func files(t *testing.T) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(ignored, name) || strings.HasSuffix(name, ".dec.yaml") {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type().IsRegular() {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 50 {
		t.Fatalf("only %d files below %s: is that the repository?", len(names), root)
	}
	return names
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestIgnoredFilesAreIgnoredByGit(t *testing.T) {
	rules := strings.Split(string(read(t, ".gitignore")), "\n")
	for _, name := range ignored {
		if name != ".git" && !slices.Contains(rules, "/"+name) && !slices.Contains(rules, "/"+name+"/") {
			t.Errorf(".gitignore lacks /%s, which the tests of this package skip", name)
		}
	}
}

func TestNoFileIsLarge(t *testing.T) {
	const limit = 1 << 20
	for _, name := range files(t) {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s: %d bytes, want at most %d; git keeps every version of it for ever", name, info.Size(), limit)
		}
	}
}

func TestGoFilesAreFormatted(t *testing.T) {
	for _, name := range files(t) {
		if path.Ext(name) != ".go" {
			continue
		}
		content := read(t, name)
		formatted, err := format.Source(content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(content, formatted) {
			t.Errorf("%s: not formatted; run gofmt -w or `mise run fmt`", name)
		}
	}
}

// TestNoSecretInClear applies the pre-commit hook's rules to the whole tree, for those who commit without hooks.
func TestNoSecretInClear(t *testing.T) {
	for _, name := range files(t) {
		for _, finding := range sopsfile.Scan(name, read(t, name)) {
			t.Errorf("%s", finding)
		}
	}
}

// A link in Markdown: [text](target) or [text](target "title"), images too.
var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)`)

// fenced is a code block, in which brackets mean something else.
var fenced = regexp.MustCompile("(?ms)^(```+|~~~+).*?^(```+|~~~+)[ \t]*$")

func TestMarkdownLinksResolve(t *testing.T) {
	for _, name := range files(t) {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, defect := range brokenLinks(t, name, read(t, name)) {
			t.Error(defect)
		}
	}
}

// brokenLinks returns the relative links of the page called name that lead to no file or no heading.
func brokenLinks(t *testing.T, name string, content []byte) (defects []string) {
	t.Helper()
	for _, match := range markdownLink.FindAllSubmatch(fenced.ReplaceAll(content, nil), -1) {
		link := string(match[1])
		if strings.Contains(link, ":") {
			continue
		}
		file, anchor, _ := strings.Cut(link, "#")
		target, page := name, content
		if file != "" {
			target = path.Join(path.Dir(name), file)
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(target))); err != nil {
				defects = append(defects, name+": link to "+link+": no such file "+target)
				continue
			}
			if anchor != "" {
				page = read(t, target)
			}
		}
		if anchor != "" && path.Ext(target) == ".md" && !slices.Contains(anchors(page), anchor) {
			defects = append(defects, name+": link to "+link+": "+target+" has no heading #"+anchor)
		}
	}
	return defects
}

var (
	heading      = regexp.MustCompile(`(?m)^#{1,6}[ \t]+(.+?)[ \t]*#*$`)
	notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names that GitHub gives to a page's headings.
func anchors(page []byte) (names []string) {
	for _, match := range heading.FindAllSubmatch(fenced.ReplaceAll(page, nil), -1) {
		name := notInAnchors.ReplaceAllString(strings.ToLower(string(match[1])), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestBrokenLinksAreFound(t *testing.T) {
	tests := map[string]struct {
		page    string
		defects int
	}{
		"file":              {"[a](development.md)", 0},
		"folder":            {"[a](../internal/repository)", 0},
		"elsewhere":         {"[a](https://example.com/x)", 0},
		"own heading":       {"# What `it` does\n[a](#what-it-does)", 0},
		"in code":           {"```\n[a](nowhere.md)\n```\n", 0},
		"missing file":      {"![a](nowhere.svg \"title\")", 1},
		"missing heading":   {"# A\n[a](#b)", 1},
		"heading elsewhere": {"[a](development.md#no-such-heading)", 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := brokenLinks(t, "docs/page.md", []byte(test.page)); len(got) != test.defects {
				t.Errorf("got %q, want %d defects", got, test.defects)
			}
		})
	}
}
