package toolchain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloudlab/internal/term"
)

// build makes the entry unless another process has done so in the meantime.
func (b *builder) build(ctx context.Context, e entry, dir string) (Origin, error) {
	t := e.tool
	step := b.Out.Step(fmt.Sprintf("build %s %s", t.Name, t.Version))
	unlock, err := lock(ctx, e.lockPath(), func() { step.Update("waiting for another process that builds it") })
	if err != nil {
		err = fmt.Errorf("build %s: %w", t.Name, err)
		step.Fail(summary(err))
		return Origin{}, err
	}
	defer unlock()
	if origin, ok := e.load(); ok {
		step.Done("done by another process")
		return origin, nil
	}
	origin, err := b.compile(ctx, e, dir, step)
	if err != nil {
		step.Fail(summary(err))
		return Origin{}, err
	}
	if err := e.prune(time.Now()); err != nil {
		b.Out.Warn("%v", err)
	}
	step.Done("%d MB", (origin.Bytes+999_999)/1_000_000)
	return origin, nil
}

// compile runs `go build` and stores the result. The caller holds the tool's lock.
func (b *builder) compile(ctx context.Context, e entry, dir string, step *term.Step) (Origin, error) {
	t := e.tool
	p, err := loadPlan(ctx, t, dir, step)
	if err != nil {
		return Origin{}, err
	}
	free, waited, err := b.takeSlot(ctx, step)
	if err != nil {
		return Origin{}, fmt.Errorf("build %s: %w", t.Name, err)
	}
	defer free()
	if waited { // for a build that has compiled some of the same packages
		if p, err = loadPlan(ctx, t, dir, step); err != nil {
			return Origin{}, err
		}
	}

	work, err := e.workDir()
	if err != nil {
		return Origin{}, fmt.Errorf("build %s: %w", t.Name, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	tmp := filepath.Join(work, string(t.Name))

	begun := time.Now()
	done := 0
	step.Update("compiling %d packages", len(p.stale))
	if len(p.stale) == 1 {
		step.Update("linking")
	}
	args := append([]string{"build", "-v", "-o", tmp, "-ldflags", t.ldflags()}, buildFlags()...)
	err = run(ctx, t, goCommand(ctx, dir, append(args, t.Package)...), func(line string) bool {
		if !p.stale[line] {
			return false
		}
		done++
		if line == p.main {
			step.Update("linking")
			free()
		} else {
			step.Update("compiled %d of %d packages", done, len(p.stale))
		}
		return true
	})
	if err != nil {
		return Origin{}, err
	}
	origin, err := e.store(tmp, time.Since(begun))
	if err != nil {
		return Origin{}, fmt.Errorf("store %s in the tool cache: %w", t.Name, err)
	}
	return origin, nil
}

// takeSlot waits until this build may compile and says whether it had to. The returned function gives the slot back,
// once.
func (b *builder) takeSlot(ctx context.Context, step *term.Step) (free func(), waited bool, err error) {
	freed := false
	free = func() {
		if !freed {
			freed = true
			<-b.slots
		}
	}
	select {
	case b.slots <- struct{}{}:
		return free, false, nil
	default:
	}
	step.Update("waiting for its turn")
	select {
	case b.slots <- struct{}{}:
		return free, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// buildFlags decide what is compiled; planning and building must agree on them.
func buildFlags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-mod=readonly"}
}

// plan is what a build has to do.
type plan struct {
	main  string          // import path of the command
	stale map[string]bool // import paths that the Go build cache does not have
}

// loadPlan downloads the modules that are missing and lists what has to be compiled.
func loadPlan(ctx context.Context, t Tool, dir string, step *term.Step) (plan, error) {
	step.Update("loading modules")
	args := append([]string{"list", "-deps", "-f", "{{.ImportPath}}\t{{.Stale}}"}, buildFlags()...)
	cmd := goCommand(ctx, dir, append(args, t.Package)...)
	var out strings.Builder
	cmd.Stdout = &out
	err := run(ctx, t, cmd, func(line string) bool {
		module, ok := strings.CutPrefix(line, "go: downloading ")
		if ok {
			step.Update("downloading %s", module)
		}
		return ok
	})
	if err != nil {
		return plan{}, err
	}
	p := plan{stale: map[string]bool{}}
	for line := range strings.Lines(out.String()) {
		path, stale, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if stale == "true" {
			p.stale[path] = true
		}
		p.main = path // dependencies come first
	}
	p.stale[p.main] = true
	return p, nil
}
