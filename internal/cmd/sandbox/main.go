// Command sandbox runs the whole of Cloudlab without hardware: `sandbox up` starts simulated Proxmox and Talos machines when they do
// not run yet, and then the real `pulumi up` of stack sandbox against them.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"cloudlab/internal/term"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	people := term.New(os.Stderr)
	command := newCommand(streams{out: os.Stdout, err: os.Stderr, people: people})
	command.SetArgs(args)
	command.SetOut(os.Stdout)
	command.SetErr(os.Stderr)
	if err := command.ExecuteContext(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			people.Fail("interrupted")
			return 130
		}
		people.Fail("%v", err)
		return 1
	}
	return 0
}
