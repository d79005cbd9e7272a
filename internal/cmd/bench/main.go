// Command bench measures how long Cloudlab takes: operations on the sandbox, the program's own start, and how both grow with the
// number of nodes. It prints numbers and judges none of them: a machine that is busy with something else is no defect.
//
// Every operation is measured as a user runs it, as a process of its own, beside the same Pulumi engine with an empty program: what
// remains above that floor is ours and the providers'. docs/performance.md says what the numbers were and where they come from.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/term"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	people := term.New(os.Stderr)
	command := newCommand(people, os.Stdout)
	command.SetArgs(args)
	if err := command.ExecuteContext(ctx); err != nil {
		people.Fail("%v", err)
		return 1
	}
	return 0
}

// bench is one run of the command.
type bench struct {
	people *term.Printer
	out    io.Writer

	root, output string
	runs         int
	nodes        []int
	fixed, cold  bool

	work             string // temporary folder of this run
	sandbox, program string // what was compiled
}

func newCommand(people *term.Printer, out io.Writer) *cobra.Command {
	b := &bench{people: people, out: out}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the sandbox's operations, the program's start and their growth with the number of nodes",
		Example: `  go run ./internal/cmd/bench
  go run ./internal/cmd/bench -n 3 --nodes 1,10 --output json`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.measure(cmd.Context()) },
	}
	cmd.PersistentFlags().StringVar(&b.root, "root", ".", "project folder")
	cmd.Flags().IntVarP(&b.runs, "runs", "n", 5, "how often each thing is measured, after one warm-up")
	cmd.Flags().IntSliceVar(&b.nodes, "nodes", []int{1, 3, 10, 50}, "cluster sizes for the growth; empty skips it")
	cmd.Flags().BoolVar(&b.fixed, "operations", true, "measure the operations on the sandbox's own stack")
	cmd.Flags().BoolVar(&b.cold, "toolchain", false, "also build the tool chain in empty caches; takes many minutes and all CPUs")
	cmd.Flags().StringVar(&b.output, "output", "text", "text or json")
	cmd.AddCommand(b.floorCommand())
	return cmd
}

func (b *bench) measure(ctx context.Context) (err error) {
	if b.output != "text" && b.output != "json" {
		return fmt.Errorf("--output %q: expected text or json", b.output)
	}
	if b.runs < 1 {
		return fmt.Errorf("-n %d: expected at least 1", b.runs)
	}
	if err := checkSizes(b.nodes); err != nil {
		return err
	}
	if b.root, err = filepath.Abs(b.root); err != nil {
		return fmt.Errorf("project folder: %w", err)
	}
	if b.work, err = os.MkdirTemp("", "cloudlab-bench-"); err != nil {
		return fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()

	report := Report{OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(), Runs: b.runs}
	tools, err := b.prepare(ctx)
	if err != nil {
		return err
	}
	report.ToolChain = tools.Origins()
	if report.Startup, err = b.startup(ctx); err != nil {
		return fmt.Errorf("start of the program: %w", err)
	}
	if b.fixed {
		if report.Operations, err = b.operations(ctx, tools); err != nil {
			return fmt.Errorf("operations: %w", err)
		}
	}
	for _, size := range b.nodes {
		growth, err := b.grow(ctx, size)
		if err != nil {
			return fmt.Errorf("%d nodes: %w", size, err)
		}
		report.Growth = append(report.Growth, growth)
	}
	if b.cold {
		if report.ColdToolChain, err = b.coldToolChain(ctx); err != nil {
			return fmt.Errorf("cold tool chain: %w", err)
		}
	}
	if b.output == "json" {
		enc := json.NewEncoder(b.out)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	return report.print(b.out)
}

// prepare compiles what is measured, as `mise run build` and a user would, and makes the tool chain ready.
func (b *bench) prepare(ctx context.Context) (*toolchain.Set, error) {
	tools, err := toolchain.Ensure(ctx, toolchain.Options{
		Root: b.root, Cache: toolchain.DefaultCache(b.root), Out: b.people,
		Tools: []toolchain.Name{toolchain.Pulumi, toolchain.Proxmoxve, toolchain.Talos},
	})
	if err != nil {
		return nil, err
	}
	step := b.people.Step("compile")
	b.sandbox, b.program = filepath.Join(b.work, "sandbox"), filepath.Join(b.work, "cloudlab")
	for target, pkg := range map[string]string{b.sandbox: "./internal/cmd/sandbox", b.program: "."} {
		if err := compile(ctx, b.root, target, pkg); err != nil {
			step.Fail(err)
			return nil, err
		}
	}
	step.Done("the program and the sandbox's command")
	return tools, nil
}
