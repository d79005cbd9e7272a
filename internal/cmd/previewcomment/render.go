package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// marker is the comment's first line, by which the next run finds it.
const marker = "<!-- cloudlab-preview -->"

// maxSection bounds one preview in bytes: GitHub takes 65,536 characters, and there are two previews and some words around them.
const maxSection = 28_000

// maxRead bounds what is read of an untrusted file.
const maxRead = 1 << 20

// section is one preview.
type section struct {
	title string
	text  string
}

// readSections reads the previews in dir. One of them may be missing, but not both.
func readSections(dir string) ([]section, error) {
	var sections []section
	for _, source := range []struct{ file, title string }{
		{"sandbox.txt", "Against the base branch in the sandbox"},
		{"stack.txt", "Against the real stack"},
	} {
		text, err := readBounded(filepath.Join(dir, source.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("preview: %w", err)
		}
		sections = append(sections, section{title: source.title, text: text})
	}
	if len(sections) == 0 {
		return nil, fmt.Errorf("preview: neither sandbox.txt nor stack.txt in %s; run .github/scripts/preview.sh first", dir)
	}
	return sections, nil
}

// readBounded reads a regular file's first maxRead bytes; a link could lead anywhere on the machine that holds the token.
func readBounded(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxRead))
	return string(content), errors.Join(err, file.Close())
}

// render returns the comment: of each preview what it sums up to, and folded below that the changes themselves. A preview
// without a sum failed; it is shown unfolded. runURL, when there is one, leads to the whole output.
func render(sections []section, runURL string) string {
	var b strings.Builder
	b.WriteString(marker + "\n## Preview\n")
	for _, s := range sections {
		text := strings.Trim(noise.ReplaceAllString(clean(s.text), ""), "\n")
		headline, ok := sum(text)
		text, cut := shorten(text)
		fence := strings.Repeat("`", max(3, longestRun(text, '`')+1))
		fmt.Fprintf(&b, "\n### %s\n\n%s\n", s.title, headline)
		if ok {
			b.WriteString("\n<details><summary>What changes</summary>\n")
		}
		fmt.Fprintf(&b, "\n%stext\n%s\n%s\n", fence, text, fence)
		if cut > 0 {
			fmt.Fprintf(&b, "\n%d bytes are left out here; the workflow run has them.\n", cut)
		}
		if ok {
			b.WriteString("\n</details>\n")
		}
	}
	if runURL != "" {
		fmt.Fprintf(&b, "\n[Workflow run](%s)\n", runURL)
	}
	return b.String()
}

// sum makes the headline from the numbers in which Pulumi sums a preview up. It reports false when there are none or when
// something failed. Only digits and known words of the text get into it.
func sum(text string) (headline string, ok bool) {
	start := strings.LastIndex("\n"+text, "\nResources:\n")
	if start < 0 {
		return "**The preview failed.**", false
	}
	var changes []string
	unchanged := "0"
	for _, line := range strings.Split(text[start:], "\n")[1:] {
		match := counted.FindStringSubmatch(line)
		if match == nil {
			break
		}
		switch match[2] {
		case "errored":
			return "**The preview failed.**", false
		case "unchanged":
			unchanged = match[1]
		default:
			changes = append(changes, match[1]+" "+match[2])
		}
	}
	if len(changes) == 0 {
		changes = []string{"No changes"}
	}
	return "**" + strings.Join(changes, ", ") + "**, " + unchanged + " unchanged", true
}

var (
	// One line of Pulumi's sum, for instance "    +-2 to replace".
	counted = regexp.MustCompile(`^ {4}(?:[-+~=<>]{1,2} ?|\d+ changes?\. )?(\d{1,6}) (unchanged|errored|to (?:create|update|replace|delete|import|read|refresh|discard))$`)
	// What a terminal's reader wants and a comment's does not: headings, progress (its dots differ from run to run), the sandbox's own last word
	// and which provider instance a resource belongs to.
	noise = regexp.MustCompile(`(?m)^(?:Previewing update \(.*\):|@ previewing update\.*|✔ preview: .*|[✔•→] .*|\s+\[provider=urn:[^\]]*\])\n?`)
	// Terminal control: CSI sequences (colours, cursor), OSC sequences (titles, links), other two-byte escapes.
	escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|\x1b[@-Z\\\\-_]")
	// A fence has to be longer than any run of backticks inside it, so absurd runs are broken up.
	longTicks = regexp.MustCompile("`{16}")
)

// clean leaves printable text, tabs and line breaks: no terminal control, no invisible characters that reorder what a reviewer reads.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "�")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = escapes.ReplaceAllString(text, "")
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
	return strings.Trim(longTicks.ReplaceAllString(text, "$0 "), "\n")
}

// shorten keeps the beginning and the end (where Pulumi sums up) of a long text, in whole lines where it can, and returns
// the number of bytes it took out.
func shorten(text string) (short string, cut int) {
	if len(text) <= maxSection {
		return text, 0
	}
	const tail = maxSection / 4
	head := text[:maxSection-tail]
	if i := strings.LastIndexByte(head, '\n'); i > len(head)/2 {
		head = head[:i]
	}
	end := text[len(text)-tail:]
	if i := strings.IndexByte(end, '\n'); i >= 0 && i < len(end)/2 {
		end = end[i+1:]
	}
	head, end = strings.ToValidUTF8(head, ""), strings.ToValidUTF8(end, "")
	return head + "\n…\n" + end, len(text) - len(head) - len(end)
}

// longestRun returns the length of the longest run of c in text.
func longestRun(text string, c byte) int {
	longest, run := 0, 0
	for i := range len(text) {
		if text[i] != c {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	return longest
}
