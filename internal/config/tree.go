package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxDepth is far deeper than any configuration.
const maxDepth = 32

type kind int

const (
	null kind = iota
	boolean
	number
	text
	list
	object
)

// tree is a JSON value that remembers the order of keys.
type tree struct {
	kind kind
	// literal is a boolean or number as written, or a string without its quotes.
	literal string
	keys    []string // of an object, each once
	items   []*tree  // of a list or an object
}

// parseTree reads exactly one JSON value. Keys given twice are reported at their path.
func parseTree(raw []byte, path string, c *checker) (*tree, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()

	t, err := readTree(decoder, path, maxDepth, c)
	if err != nil {
		return nil, err
	}

	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the first value")
	}

	return t, nil
}

func readTree(decoder *json.Decoder, path string, depth int, c *checker) (*tree, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}

	switch v := token.(type) {
	case bool:
		return &tree{kind: boolean, literal: strconv.FormatBool(v)}, nil
	case json.Number:
		return &tree{kind: number, literal: v.String()}, nil
	case string:
		return &tree{kind: text, literal: v}, nil
	case json.Delim:
		if depth == 0 {
			return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
		}

		if v == '[' {
			return readList(decoder, path, depth-1, c)
		}

		return readObject(decoder, path, depth-1, c)
	default:
		return &tree{kind: null, literal: "null"}, nil
	}
}

func readList(decoder *json.Decoder, path string, depth int, c *checker) (*tree, error) {
	t := &tree{kind: list}

	for decoder.More() {
		item, err := readTree(decoder, index(path, len(t.items)), depth, c)
		if err != nil {
			return nil, err
		}

		t.items = append(t.items, item)
	}

	_, err := decoder.Token()

	return t, err
}

func readObject(decoder *json.Decoder, path string, depth int, c *checker) (*tree, error) {
	t := &tree{kind: object}
	seen := map[string]bool{}

	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}

		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("key %v is not a string", token)
		}

		item, err := readTree(decoder, join(path, key), depth, c)
		if err != nil {
			return nil, err
		}

		if seen[key] {
			// The first value is still worth checking, so the path is not excused.
			c.defects = append(c.defects, Defect{
				Path: join(path, key), Value: shorten(item.String()), Expected: "the only value of its key", Suggestion: "the key is given twice, keep one",
			})

			continue
		}

		seen[key] = true

		t.keys = append(t.keys, key)
		t.items = append(t.items, item)
	}

	_, err := decoder.Token()

	return t, err
}

// String is the value as JSON.
func (t *tree) String() string {
	switch t.kind {
	case text:
		return strconv.Quote(t.literal)
	case list:
		items := make([]string, len(t.items))
		for i, item := range t.items {
			items[i] = item.String()
		}

		return "[" + strings.Join(items, ",") + "]"
	case object:
		items := make([]string, len(t.items))
		for i, item := range t.items {
			items[i] = strconv.Quote(t.keys[i]) + ":" + item.String()
		}

		return "{" + strings.Join(items, ",") + "}"
	default:
		return t.literal
	}
}
