package config

import (
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
)

// Sections are the three parts of a configuration as JSON. An empty one is missing.
type Sections struct {
	Proxmox json.RawMessage
	Cluster json.RawMessage
	Nodes   json.RawMessage
}

// Parse decodes, completes and validates a configuration. A returned error is an [*InvalidError] with all defects.
func Parse(sections Sections) (*Cluster, error) {
	return parse(newChecker(), sections)
}

// parse adds to what was already found wrong with the sections.
func parse(c *checker, sections Sections) (*Cluster, error) {
	var (
		proxmox rawProxmox
		cluster rawCluster
		nodes   map[string]rawNode
	)

	section(c, "proxmox", sections.Proxmox, "a map with at least the key endpoint", &proxmox)
	section(c, "cluster", sections.Cluster, "a map with at least the key name", &cluster)
	section(c, "nodes", sections.Nodes, "a map of at least one node by its name", &nodes)

	built := c.cluster(cluster, nodes)
	built.Proxmox = c.proxmox(proxmox)

	if err := c.err(); err != nil {
		return nil, err
	}

	return built, nil
}

func section[T any](c *checker, name string, raw json.RawMessage, expected string, into *T) {
	if len(raw) == 0 {
		c.missing(name, expected, "add cloudlab:"+name+" to the stack's configuration")

		return
	}

	t, err := parseTree(raw, name, c)
	if err != nil {
		reason := err.Error()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			reason = "it ends too early"
		}

		c.reject(name, strings.TrimSpace(string(raw)), "a map", reason+"; write the section as a map in the stack's file")

		return
	}

	decode(t, name, reflect.ValueOf(into).Elem(), c)
}

// or is the configured value or the default.
func or[T any](configured *T, value T) T {
	if configured == nil {
		return value
	}

	return *configured
}
