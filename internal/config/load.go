package config

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi/config"
)

// Load reads and parses the configuration of the running program's stack.
func Load(ctx *pulumi.Context) (*Cluster, error) {
	file := "Pulumi." + ctx.Stack() + ".yaml"
	project := config.New(ctx, "")
	c := newChecker()

	var sections Sections

	for name, into := range map[string]*json.RawMessage{"proxmox": &sections.Proxmox, "cluster": &sections.Cluster, "nodes": &sections.Nodes} {
		key := ctx.Project() + ":" + name
		if ctx.IsConfigSecret(key) {
			c.secret(name)

			continue
		}

		value, err := project.Try(name)
		if errors.Is(err, config.ErrMissingVar) {
			continue // Parse reports it
		}

		if err != nil {
			return nil, fmt.Errorf("read %s from %s: %w", key, file, err)
		}

		*into = json.RawMessage(value)
	}

	cluster, err := parse(c, sections)
	if err != nil {
		return nil, fmt.Errorf("stack %s: correct %s (see docs/configuration.md):\n%w", ctx.Stack(), file, err)
	}

	return cluster, nil
}
