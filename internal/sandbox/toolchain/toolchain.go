// Package toolchain finds or builds the executables that Cloudlab runs: the Pulumi CLI, its two resource plugins, and
// the clients that people and tests use. It needs the go command and, for a first build, a Go module proxy or a filled
// module cache; nothing else has to be installed.
//
// A tool comes from the first of these that has it: an installed executable of an accepted version, the cache of
// earlier builds, `go build` in the small module that pins its sources. A build is cached under a hash of everything
// that goes into it, so a changed pin, source file, linker flag or Go version makes a new build and nothing else does.
//
// The package downloads no executables and never writes outside the cache and the folders it is given. It relies on
// process groups and flock: Linux and macOS, not Windows.
package toolchain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"cloudlab/internal/term"
)

// Options say which tools are wanted and where things are.
type Options struct {
	Root  string        // project folder, the one with internal/tools
	Cache string        // folder of finished builds, made when missing; several processes may share it
	Out   *term.Printer // progress of builds; nil says nothing
	Tools []Name        // what is wanted; empty means every tool

	NoInstalled bool // build even what is installed on this machine
	Parallel    int  // builds that compile at the same time; 0 chooses by the number of CPUs
}

// Source says where a tool was found.
type Source string

// The sources of a tool, in the order they are tried.
const (
	Installed Source = "installed"
	Cached    Source = "cached"
	Built     Source = "built"
)

// Origin reports one tool: what it is and where it comes from.
type Origin struct {
	Name    Name    `json:"name"`
	Version string  `json:"version"` // of an installed tool the version found, which may be later than the pinned one
	Path    string  `json:"path"`    // absolute
	Source  Source  `json:"source"`
	Seconds float64 `json:"seconds,omitempty"` // how long the build took, now or when it was cached; 0 for installed
	Bytes   int64   `json:"bytes"`
}

// Set is the tools that Ensure found or built.
type Set struct {
	tools   []Tool
	origins map[Name]Origin
}

// Path returns the absolute path of a tool's executable, empty when the tool was not asked for.
func (s *Set) Path(name Name) string { return s.origins[name].Path }

// Origins reports every tool of the set in the order of the table.
func (s *Set) Origins() []Origin {
	origins := make([]Origin, 0, len(s.tools))
	for _, t := range s.tools {
		origins = append(origins, s.origins[t.Name])
	}
	return origins
}

// Ensure finds or builds the wanted tools. When one cannot be built, the other builds are stopped and the error names
// the tool, ends in the compiler's last lines and says what to do next. Cancelling ctx stops all running builds.
func Ensure(ctx context.Context, o Options) (*Set, error) {
	return ensure(ctx, o, Tools())
}

func ensure(ctx context.Context, o Options, table []Tool) (*Set, error) {
	tools, err := pick(table, o.Tools)
	if err != nil {
		return nil, err
	}
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	origins := make([]Origin, len(tools))
	errs := make([]error, len(tools))
	var wg sync.WaitGroup
	for i, t := range tools {
		wg.Go(func() {
			if origins[i], errs[i] = b.ensure(ctx, t); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := firstCauses(errs); err != nil {
		return nil, err
	}
	set := &Set{tools: tools, origins: make(map[Name]Origin, len(tools))}
	for _, o := range origins {
		set.origins[o.Name] = o
	}
	return set, nil
}

// firstCauses joins the errors, without those that are only the consequence of another one's cancellation.
func firstCauses(errs []error) error {
	var causes []error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			causes = append(causes, err)
		}
	}
	if len(causes) > 0 {
		return errors.Join(causes...)
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// builder holds what the builds of one Ensure share.
type builder struct {
	Options
	slots chan struct{} // one for each build that may compile at the same time

	mu   sync.Mutex
	envs map[string]func() (goEnvironment, error) // by module folder; asking the go command takes its time
}

// environment is the package's environment, asked once for each module folder.
func (b *builder) environment(ctx context.Context, t Tool, dir string) (goEnvironment, error) {
	b.mu.Lock()
	ask := b.envs[dir]
	if ask == nil {
		ask = sync.OnceValues(func() (goEnvironment, error) { return environment(ctx, t, dir) })
		b.envs[dir] = ask
	}
	b.mu.Unlock()
	return ask()
}

func newBuilder(o Options) (*builder, error) {
	var err error
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("project folder: %w", err)
	}
	if o.Cache, err = filepath.Abs(o.Cache); err != nil {
		return nil, fmt.Errorf("tool cache: %w", err)
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("tool cache: %w", err)
	}
	if o.Out == nil {
		o.Out = term.Discard()
	}
	if o.Parallel <= 0 {
		o.Parallel = parallelBuilds(runtime.GOMAXPROCS(0))
	}
	return &builder{
		Options: o,
		slots:   make(chan struct{}, o.Parallel),
		envs:    map[string]func() (goEnvironment, error){},
	}, nil
}

// parallelBuilds is how many builds compile at the same time. One `go build` already keeps all CPUs busy while it
// compiles, and two that run together compile every package they share twice, because the build cache has an entry
// only when a package is finished. Only where one build's chain of dependencies leaves many CPUs idle is it worth it.
// Loading modules and linking, which do not keep the CPUs busy, always overlap.
func parallelBuilds(cpus int) int {
	return max(1, cpus/6)
}

// ensure finds or builds one tool.
func (b *builder) ensure(ctx context.Context, t Tool) (Origin, error) {
	if !b.NoInstalled {
		if origin, ok := findInstalled(ctx, t); ok {
			return origin, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Origin{}, fmt.Errorf("find %s: %w", t.Name, err)
	}
	dir := filepath.Join(b.Root, filepath.FromSlash(t.Module))
	env, err := b.environment(ctx, t, dir)
	if err != nil {
		return Origin{}, err
	}
	sum, err := fingerprint(t, dir, env)
	if err != nil {
		return Origin{}, err
	}
	e := entry{cache: b.Cache, tool: t, sum: sum}
	if origin, ok := e.load(); ok {
		return origin, nil
	}
	return b.build(ctx, e, dir)
}
