package main

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	long := strings.Repeat("x", 101)
	tests := map[string]struct {
		message string
		want    string // part of the error; empty for a good message
	}{
		"good":               {"talos: bootstrap only the first control plane\n\nA second bootstrap splits etcd.\n", ""},
		"nested area":        {"sandbox/pve: answer 501 to unknown routes\n\nAs the real one does.\n", ""},
		"two areas":          {"config, stack: name the defect\n\nBoth printed their own words.\n", ""},
		"comments and diff":  {"a: add b\n\nwhy\n# a comment\n# ------------------------ >8 ------------------------\ndiff of " + long + " " + long, ""},
		"merge":              {"Merge branch 'x'\n", ""},
		"autosquash":         {"fixup! talos: bootstrap\n", ""},
		"long address":       {"a: add b\n\nSee\nhttps://example.com/" + long + "\n", ""},
		"trailer":            {"a: add b\n\nwhy\n\nSigned-off-by: N <n@example.com>\n", ""},
		"empty":              {"# only comments\n\n", "the message is empty"},
		"no area":            {"Fix things\n\nwhy\n", `header "Fix things": want "area: imperative subject"`},
		"upper-case area":    {"Talos: fix things\n\nwhy\n", "want \"area: imperative subject\""},
		"no subject":         {"talos:\n\nwhy\n", "want \"area: imperative subject\""},
		"past tense":         {"talos: added a patch\n\nwhy\n", `"added" is not imperative`},
		"third person":       {"talos: fixes a patch\n\nwhy\n", `"fixes" is not imperative`},
		"full stop":          {"talos: add a patch.\n\nwhy\n", "ends with a full stop"},
		"long header":        {"talos: " + long + "\n\nwhy\n", "header: 108 characters, want at most 72"},
		"no body":            {"talos: add a patch\n", "body: missing"},
		"only trailers":      {"talos: add a patch\n\nSigned-off-by: N <n@example.com>\n", "body: only trailers"},
		"no blank line":      {"talos: add a patch\nwhy\n", "want a blank line after the header"},
		"long line":          {"talos: add a patch\n\n" + long + " y\n", "a line of 103 characters"},
		"every defect named": {"talos: added a patch.\n", "body: missing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := check(test.message)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && err == nil:
				t.Errorf("accepted, want %q", test.want)
			case test.want != "" && !strings.Contains(err.Error(), test.want):
				t.Errorf("got %q, want %q", err, test.want)
			}
		})
	}
}
