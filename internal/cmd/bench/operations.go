package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/engine"
	"cloudlab/internal/sandbox/toolchain"
)

// The promises.
const (
	upTarget      = 12 * time.Second
	previewTarget = 1500 * time.Millisecond
)

// operations measures what a user does, with the sandbox's own stack.
func (b *bench) operations(ctx context.Context, tools *toolchain.Set) (all []Series, err error) {
	floor, err := b.floor(ctx, tools)
	if err != nil {
		return nil, err
	}
	l := b.newLab("lab", "")
	defer func() { err = errors.Join(err, l.down(ctx)) }()
	fromNothing, err := b.sample(ctx, "up from nothing", upTarget, func(ctx context.Context) (time.Duration, error) {
		if err := l.down(ctx); err != nil {
			return 0, err
		}
		return l.expect(ctx, "up", true)
	})
	if err != nil {
		return nil, err
	}
	all = append(all, floor, fromNothing)
	for _, o := range []struct {
		name, operation string
		target          time.Duration
	}{
		{"preview, no change", "preview", previewTarget},
		{"up, no change", "up", 0},
		{"refresh, no change", "refresh", 0},
	} {
		s, err := b.sample(ctx, o.name, o.target, func(ctx context.Context) (time.Duration, error) { return l.expect(ctx, o.operation, false) })
		if err != nil {
			return nil, err
		}
		s.Floors = s.Median / floor.Median
		all = append(all, s)
	}
	destroy, err := b.sample(ctx, "destroy", 0, func(ctx context.Context) (time.Duration, error) {
		if _, err := l.run(ctx, "up", nil); err != nil {
			return 0, err
		}
		return l.expect(ctx, "destroy", true)
	})
	return append(all, destroy), err
}

// floor measures a preview by the same engine, in a process of its own too, with nothing to do.
func (b *bench) floor(ctx context.Context, tools *toolchain.Set) (Series, error) {
	folder := sandbox.Folder(filepath.Join(b.work, "floor"))
	if err := folder.Prepare(ctx); err != nil {
		return Series{}, err
	}
	if err := folder.Configure(b.root, []byte("config: {}\n")); err != nil {
		return Series{}, err
	}
	if err := tools.PulumiHome(folder.Pulumi()); err != nil {
		return Series{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return Series{}, fmt.Errorf("own executable: %w", err)
	}
	return b.sample(ctx, "floor: preview of nothing", 0, func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, operationLimit)
		defer cancel()
		begin := time.Now()
		out, err := exec.CommandContext(ctx, self, "floor", string(folder)).CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, tail(string(out), 10))
		}
		return time.Since(begin), nil
	})
}

// floorCommand is the process that floor measures.
func (b *bench) floorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "floor FOLDER", Short: "Preview an empty program", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := engine.Open(cmd.Context(), engine.Options{
				Folder: sandbox.Folder(args[0]), Program: func(*pulumi.Context) error { return nil }, Out: b.out,
			})
			if err != nil {
				return err
			}
			_, err = e.Preview(cmd.Context(), false)
			return err
		},
	}
}

// coldToolChain builds in empty caches: what a newcomer waits for after the modules are downloaded.
func (b *bench) coldToolChain(ctx context.Context) (float64, error) {
	cache := filepath.Join(b.work, "toolchain")
	if err := os.Setenv("GOCACHE", filepath.Join(b.work, "gocache")); err != nil {
		return 0, fmt.Errorf("environment: %w", err)
	}
	begin := time.Now()
	_, err := toolchain.Ensure(ctx, toolchain.Options{
		Root: b.root, Cache: cache, Out: b.people, NoInstalled: true,
		Tools: []toolchain.Name{toolchain.Pulumi, toolchain.Proxmoxve, toolchain.Talos},
	})
	return time.Since(begin).Seconds(), err
}
