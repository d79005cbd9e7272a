package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cloudlab/internal/sandbox"
)

// operationLimit bounds one operation, so that a benchmark ends.
const operationLimit = 10 * time.Minute

// lab is a sandbox of the benchmark, used through the sandbox's command.
type lab struct {
	bench  *bench
	folder sandbox.Folder
	config string // stack configuration, empty for the sandbox's own
}

func (b *bench) newLab(name, config string) *lab {
	return &lab{bench: b, folder: sandbox.Folder(filepath.Join(b.work, name)), config: config}
}

// outcome is one operation that succeeded.
type outcome struct {
	took    time.Duration
	changes map[string]int
	memory  memory
}

// run runs an operation: up, preview, refresh or destroy. While it runs, observe sees its process.
func (l *lab) run(ctx context.Context, operation string, observe func(pid int) (stop func() memory)) (outcome, error) {
	args := []string{operation, "--dir", string(l.folder), "--output", "json"}
	if l.config != "" {
		args = append(args, "--config", l.config)
	}
	ctx, cancel := context.WithTimeout(ctx, operationLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.bench.sandbox, args...)
	cmd.Dir = l.bench.root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var out, people bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &people
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", operation, err)
	}
	stop := func() memory { return memory{} }
	if observe != nil {
		stop = observe(cmd.Process.Pid)
	}
	err := cmd.Wait()
	result := outcome{took: time.Since(begin)}
	result.memory = stop()
	if err != nil {
		return outcome{}, fmt.Errorf("%s: %w:\n%s", operation, err, tail(people.String(), 15))
	}
	if err := json.Unmarshal(out.Bytes(), &result.changes); err != nil {
		return outcome{}, fmt.Errorf("%s: summary: %w", operation, err)
	}
	return result, nil
}

// expect is run for an operation that has to change something or nothing: a benchmark of a failure is worth nothing.
func (l *lab) expect(ctx context.Context, operation string, change bool) (time.Duration, error) {
	result, err := l.run(ctx, operation, nil)
	if err != nil {
		return 0, err
	}
	return result.took, result.check(operation, change)
}

func (o outcome) check(operation string, change bool) error {
	changed := 0
	for op, n := range o.changes {
		if op != "same" {
			changed += n
		}
	}
	if (changed > 0) != change {
		return fmt.Errorf("%s: unexpected changes %v", operation, o.changes)
	}
	return nil
}

// down stops the hardware and forgets everything.
func (l *lab) down(ctx context.Context) error {
	// Also after an interrupt: nothing may stay behind.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.bench.sandbox, "down", "--dir", string(l.folder))
	cmd.Dir = l.bench.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("down: %w: %s", err, tail(string(out), 5))
	}
	return nil
}

func compile(ctx context.Context, dir, target, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", target, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("go build %s: %w", pkg, err), errors.New(tail(string(out), 10)))
	}
	return nil
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
