// Package engine runs the real Pulumi engine against a sandbox: an inline program through the Automation API, so that only the CLI
// and the plugins are needed, no language host.
//
// The program is the caller's. The engine, the plugins and the program see the environment of this process plus what the folder and
// the tool chain add; nothing of the user's own Pulumi (home, backend, login) is touched.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pulumi/pulumi/sdk/v3/go/auto"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optdestroy"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optpreview"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optrefresh"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optup"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/toolchain"
)

// Options say where things are.
type Options struct {
	Folder sandbox.Folder
	// Proxy is the running hardware's.
	Proxy   string
	Program pulumi.RunFunc
	// Out receives the engine's progress as text.
	Out io.Writer
	// Replace names resources, by URN, that Up makes anew although nothing about them changed.
	Replace []string
	// Color is "always" for a terminal, "never" elsewhere.
	Color string
}

// Engine runs operations on the sandbox's stack.
type Engine struct {
	stack   auto.Stack
	options Options
}

// Summary is what an operation did: how many resources per kind of change ("create", "update", "same", "replace", "delete").
type Summary map[apitype.OpType]int

// Changes counts all but those left as they are.
func (s Summary) Changes() int {
	n := 0
	for op, count := range s {
		if op != apitype.OpSame && op != apitype.OpRead {
			n += count
		}
	}
	return n
}

// Open selects the stack, and creates it on first use. It sets this process's environment, because the inline program runs in it.
func Open(ctx context.Context, o Options) (*Engine, error) {
	if o.Color == "" {
		o.Color = "never"
	}
	environment := append(o.Folder.Environ(o.Proxy), toolchain.Environ(o.Folder.Pulumi())...)
	variables := map[string]string{}
	for _, entry := range environment {
		key, value, _ := strings.Cut(entry, "=")
		variables[key] = value
		var err error
		if value == "" {
			err = os.Unsetenv(key)
		} else {
			err = os.Setenv(key, value)
		}
		if err != nil {
			return nil, fmt.Errorf("environment: %w", err)
		}
	}
	command := &cli{path: filepath.Join(o.Folder.Pulumi(), "bin", "pulumi")}
	workspace, err := auto.NewLocalWorkspace(ctx, auto.Pulumi(command), auto.WorkDir(o.Folder.Project()), auto.PulumiHome(o.Folder.Pulumi()),
		auto.Program(o.Program), auto.EnvVars(variables))
	if err != nil {
		return nil, fmt.Errorf("pulumi workspace: %w", err)
	}
	// Every operation names the stack: there is nothing to select.
	command.answers = map[string]string{"stack select": ""}
	open := auto.SelectStack
	if !o.Folder.HasState() {
		open = create
	}
	stack, err := open(ctx, sandbox.Stack, workspace)
	if err != nil {
		return nil, fmt.Errorf("pulumi stack %s: %w", sandbox.Stack, err)
	}
	// After an operation the Automation API asks for the outputs, twice, and the history. The summary comes from the events.
	command.answers = map[string]string{"stack output": "{}", "stack history": "[]"}
	return &Engine{stack: stack, options: o}, nil
}

// create makes the stack, unless the backend has it in a form that the folder does not know.
func create(ctx context.Context, name string, workspace auto.Workspace) (auto.Stack, error) {
	stack, err := auto.NewStack(ctx, name, workspace)
	if auto.IsCreateStack409Error(err) {
		return auto.SelectStack(ctx, name, workspace)
	}
	return stack, err
}

// Up brings the sandbox to what the configuration says.
func (e *Engine) Up(ctx context.Context) (Summary, error) {
	return summarize(func(stream chan<- events.EngineEvent) error {
		_, err := e.stack.Up(ctx, optup.ProgressStreams(e.options.Out), optup.ErrorProgressStreams(e.options.Out),
			optup.Color(e.options.Color), optup.SuppressOutputs(), optup.EventStreams(stream), optup.Replace(e.options.Replace))
		return err
	})
}

// Preview shows what Up would do.
func (e *Engine) Preview(ctx context.Context, diff bool) (Summary, error) {
	options := []optpreview.Option{
		optpreview.ProgressStreams(e.options.Out), optpreview.ErrorProgressStreams(e.options.Out),
		optpreview.Color(e.options.Color), optpreview.SuppressOutputs(),
	}
	if diff {
		options = append(options, optpreview.Diff())
	}
	result, err := e.stack.Preview(ctx, options...)
	if err != nil {
		return nil, trim(err)
	}
	return result.ChangeSummary, nil
}

// Refresh reads the simulated hardware into the state.
func (e *Engine) Refresh(ctx context.Context) (Summary, error) {
	return summarize(func(stream chan<- events.EngineEvent) error {
		_, err := e.stack.Refresh(ctx, optrefresh.ProgressStreams(e.options.Out), optrefresh.ErrorProgressStreams(e.options.Out),
			optrefresh.Color(e.options.Color), optrefresh.SuppressOutputs(), optrefresh.ClearPendingCreates(), optrefresh.EventStreams(stream))
		return err
	})
}

// Destroy takes everything away that Up made.
func (e *Engine) Destroy(ctx context.Context) (Summary, error) {
	return summarize(func(stream chan<- events.EngineEvent) error {
		// The provider fails on a machine that is gone, as one is whose removal was interrupted: Refresh takes it out of the state.
		_, err := e.stack.Destroy(ctx, optdestroy.Refresh(), optdestroy.ProgressStreams(e.options.Out), optdestroy.ErrorProgressStreams(e.options.Out),
			optdestroy.Color(e.options.Color), optdestroy.SuppressOutputs(), optdestroy.EventStreams(stream))
		return err
	})
}

// Unlock removes the lock that a killed engine left behind.
func (e *Engine) Unlock(ctx context.Context) error { return e.stack.Cancel(ctx) }

// Locked reports whether an error means that a lock is in the way.
func Locked(err error) bool { return auto.IsConcurrentUpdateError(err) }

// summarize runs an operation and returns what its events say it did.
func summarize(operation func(chan<- events.EngineEvent) error) (Summary, error) {
	stream, failed, summed := make(chan events.EngineEvent), make(chan struct{}), make(chan Summary, 1)
	go func() {
		changes := Summary{}
		for {
			select {
			case event, more := <-stream:
				if !more {
					summed <- changes
					return
				}
				if event.SummaryEvent != nil {
					changes = event.SummaryEvent.ResourceChanges
				}
			case <-failed:
				return // an operation that fails early does not close its stream
			}
		}
	}()
	if err := operation(stream); err != nil {
		close(failed)
		return nil, trim(err)
	}
	return <-summed, nil
}

// trim leaves out what the Automation API adds to an error: the exit code and both streams, which the user has just seen.
func trim(err error) error {
	if auto.IsConcurrentUpdateError(err) || errors.Is(err, context.Canceled) {
		return err
	}
	if refusal := protected(err.Error()); refusal != nil {
		return refusal
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(advised(first, err.Error()))
}
