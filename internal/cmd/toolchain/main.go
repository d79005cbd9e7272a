// Command toolchain finds or builds the tools that Cloudlab runs and prints where they are. CI runs it to fill the
// cache before the tests; the sandbox does the same by itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		term.New(os.Stderr).Fail("%v", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("toolchain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: toolchain [flags] [tool ...]\n\nFinds or builds the tools, all when none is named.")
		flags.PrintDefaults()
	}
	root := flags.String("root", ".", "project folder")
	cache := flags.String("cache", "", "folder of finished builds (default <root>/.sandbox/toolchain, which the sandbox and the tests use)")
	build := flags.Bool("build", false, "build even what is installed on this machine")
	asJSON := flags.Bool("json", false, "print JSON instead of a table")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("flags: %w", err)
	}
	if *cache == "" {
		*cache = toolchain.DefaultCache(*root)
	}
	options := toolchain.Options{Root: *root, Cache: *cache, Out: term.New(stderr), NoInstalled: *build}
	for _, name := range flags.Args() {
		options.Tools = append(options.Tools, toolchain.Name(name))
	}
	set, err := toolchain.Ensure(ctx, options)
	if err != nil {
		return err
	}
	if *asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(set.Origins())
	}
	return printTable(stdout, set.Origins())
}

func printTable(w io.Writer, origins []toolchain.Origin) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TOOL\tVERSION\tSOURCE\tBUILD\tMB\tPATH")
	for _, o := range origins {
		build := "-"
		if o.Seconds > 0 {
			build = fmt.Sprintf("%.1fs", o.Seconds)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.0f\t%s\n", o.Name, o.Version, o.Source, build, float64(o.Bytes)/1e6, o.Path)
	}
	return table.Flush()
}
