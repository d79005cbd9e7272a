// Command commitmsg checks a commit message (the file that git hands to the commit-msg hook) against the style of
// docs/development.md: a header "area: imperative subject", a blank line, and a body that says why.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxHeader bounds the first line in characters; maxLine the lines of the body, so that `git log` stays readable in a terminal.
const (
	maxHeader = 72
	maxLine   = 100
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: commitmsg FILE")
		os.Exit(2)
	}
	message, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = check(string(message))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "commitmsg: %v\n(the message is kept in %s)\n", err, os.Args[1])
		os.Exit(1)
	}
}

var (
	header = regexp.MustCompile(`^[a-z0-9][a-z0-9_./,-]*(?:, [a-z0-9][a-z0-9_./-]*)*: \S`)
	// Git writes these headers itself, and autosquash needs them untouched.
	generated = regexp.MustCompile(`^(Merge |Revert "|fixup! |squash! |amend! )`)
	trailer   = regexp.MustCompile(`^[A-Z][A-Za-z-]+: \S`)
	// The third person and the past tense of words that commits often begin with.
	notImperative = regexp.MustCompile(`^(?i:(?:add|fix|remove|change|update|rename|refactor|move|make|use|implement|improve|introduce|test|document|support|allow|correct)(?:s|es|ed|d|ing)|made|makes|making|using|moving|removing|changing|updating)$`)
)

// check returns everything that is wrong with the message, joined.
func check(message string) error {
	lines := significant(message)
	if len(lines) == 0 {
		return errors.New("the message is empty")
	}
	if generated.MatchString(lines[0]) {
		return nil
	}
	var defects []error
	if !header.MatchString(lines[0]) {
		defects = append(defects, fmt.Errorf("header %q: want \"area: imperative subject\", e.g. \"talos: bootstrap only the first control plane\"", lines[0]))
	} else {
		_, subject, _ := strings.Cut(lines[0], ": ")
		if first, _, _ := strings.Cut(subject, " "); notImperative.MatchString(first) {
			defects = append(defects, fmt.Errorf("header: %q is not imperative; say what the commit does as an order, e.g. \"add\", \"fix\"", first))
		}
		if strings.HasSuffix(subject, ".") {
			defects = append(defects, errors.New("header: ends with a full stop"))
		}
	}
	if n := utf8.RuneCountInString(lines[0]); n > maxHeader {
		defects = append(defects, fmt.Errorf("header: %d characters, want at most %d", n, maxHeader))
	}
	return errors.Join(append(defects, checkBody(lines[1:]))...)
}

// checkBody checks what follows the header.
func checkBody(lines []string) error {
	if len(lines) == 0 {
		return errors.New("body: missing; after a blank line say why, and what was checked")
	}
	var defects []error
	if lines[0] != "" {
		defects = append(defects, errors.New("body: want a blank line after the header"))
	}
	prose := false
	for _, line := range lines {
		if line != "" && !trailer.MatchString(line) {
			prose = true
		}
		// A line without a blank is a URL, a path or a hash: it cannot be wrapped.
		if n := utf8.RuneCountInString(line); n > maxLine && strings.Contains(strings.TrimSpace(line), " ") {
			defects = append(defects, fmt.Errorf("body: a line of %d characters, want at most %d: %q", n, maxLine, line))
		}
	}
	if !prose {
		defects = append(defects, errors.New("body: only trailers; say why, and what was checked"))
	}
	return errors.Join(defects...)
}

// significant returns the lines that git keeps: no comments, no diff below the scissors, no blank lines at either end.
func significant(message string) []string {
	var lines []string
	for line := range strings.Lines(message) {
		line = strings.TrimRight(line, " \t\r\n")
		if strings.HasPrefix(line, "# ------------------------ >8 ----") {
			break
		}
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
