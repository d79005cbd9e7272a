package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// maxValue bounds how much of a bad value is shown, in runes.
const maxValue = 80

// Defect is one thing wrong with a configuration.
type Defect struct {
	// Path leads to the value from its section on, e.g. nodes.cp-1.address.
	Path string
	// Value is the bad value as JSON, shortened when long; empty when a required value is missing.
	Value string
	// Expected says what belongs there; it completes "is not …".
	Expected string
	// Suggestion is what to write instead or where to look; empty when nothing is near.
	Suggestion string
}

// String is the defect on one line: path, value, what is expected, suggestion.
func (d Defect) String() string {
	var b strings.Builder

	b.WriteString(d.Path)

	if d.Value == "" {
		b.WriteString(": missing, expected ")
	} else {
		b.WriteString(": " + d.Value + " is not ")
	}

	b.WriteString(d.Expected)

	if d.Suggestion != "" {
		b.WriteString(": " + d.Suggestion)
	}

	return b.String()
}

// InvalidError reports every defect of a configuration at once.
type InvalidError struct {
	// Defects are sorted by path and never empty.
	Defects []Defect
}

// Error lists the defects, one per line.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Defects))
	for i, d := range e.Defects {
		lines[i] = d.String()
	}

	return strings.Join(lines, "\n")
}

// checker collects defects and remembers their paths, so that one mistake is reported once.
type checker struct {
	defects []Defect
	bad     map[string]bool
}

func newChecker() *checker {
	return &checker{bad: map[string]bool{}}
}

func (c *checker) add(d Defect) {
	d.Value = shorten(d.Value)
	c.defects = append(c.defects, d)
	c.excuse(d.Path)
}

// reject reports a string.
func (c *checker) reject(path, value, expected, suggestion string) {
	c.add(Defect{Path: path, Value: strconv.Quote(value), Expected: expected, Suggestion: suggestion})
}

// rejectInt reports a whole number.
func (c *checker) rejectInt(path string, value int, expected, suggestion string) {
	c.add(Defect{Path: path, Value: strconv.Itoa(value), Expected: expected, Suggestion: suggestion})
}

// missing reports an absent value, unless something is already known to be wrong with it.
func (c *checker) missing(path, expected, suggestion string) {
	if !c.isBad(path) {
		c.add(Defect{Path: path, Expected: expected, Suggestion: suggestion})
	}
}

// excuse makes later checks of a path silent.
func (c *checker) excuse(path string) {
	c.bad[path] = true
}

// isBad tells whether something is known to be wrong with a path or with what contains it.
func (c *checker) isBad(path string) bool {
	for i, r := range path {
		if (r == '.' || r == '[') && c.bad[path[:i]] {
			return true
		}
	}

	return c.bad[path]
}

// err is nil when nothing was found.
func (c *checker) err() error {
	if len(c.defects) == 0 {
		return nil
	}

	defects := slices.Clone(c.defects)
	slices.SortFunc(defects, func(a, b Defect) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Expected, b.Expected),
			cmp.Compare(a.Suggestion, b.Suggestion))
	})

	return &InvalidError{Defects: slices.Compact(defects)}
}

// join appends a key to a path: .key, or ["key"] when the key holds more than letters, digits, - and _.
func join(path, key string) string {
	plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0

	switch {
	case !plain:
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

func index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

// shorten cuts a rendered value and keeps its closing quote.
func shorten(value string) string {
	return shortenTo(value, maxValue)
}

func shortenTo(value string, most int) string {
	runes := []rune(value)
	if len(runes) <= most {
		return value
	}

	short := string(runes[:most-2]) + "…"
	if runes[0] == '"' {
		short += `"`
	}

	return short
}
