// Command credentials moves a cluster's credentials between the stack's state, the encrypted files in git and the plain files that
// kubectl and talosctl read: `export` writes the encrypted files again from the state, `decrypt` the plain ones from the encrypted.
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
	command := newCommand(&settings{people: people, getenv: os.Getenv, outputs: pulumiOutputs})
	command.SetArgs(args)
	command.SetOut(os.Stdout)
	command.SetErr(os.Stderr)
	if err := command.ExecuteContext(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			people.Fail("interrupted")
			return 130
		}
		people.Fail("%v", err)
		return 1
	}
	return 0
}
