package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cloudlab/internal/sopsfile"
	"cloudlab/internal/stack"
	"cloudlab/internal/term"
)

// stackVariable names the stack when no flag does; mise.toml sets it.
const (
	stackVariable = "CLOUDLAB_STACK"
	defaultStack  = "cloudlab"
)

type settings struct {
	people *term.Printer
	getenv func(string) string
	// outputs reads a stack's outputs, secrets in clear, from the state of the project in dir.
	outputs func(ctx context.Context, dir, stack string) (map[string]string, error)

	stack, dir string
}

func newCommand(o *settings) *cobra.Command {
	root := &cobra.Command{
		Use:          "credentials",
		Short:        "Move a cluster's credentials between the stack's state, the encrypted files and the plain ones",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&o.stack, "stack", "", "stack (default $"+stackVariable+" or "+defaultStack+")")
	root.PersistentFlags().StringVar(&o.dir, "dir", "", "folder of Pulumi.yaml and the files (default the nearest at or above the current one)")
	root.AddCommand(
		&cobra.Command{
			Use: "export", Short: "Write the encrypted credentials again from the stack's state", Args: cobra.NoArgs,
			Long: "Write kubeconfig, talosconfig and machine secrets again from the stack's state, encrypted by the rules of .sops.yaml.\n" +
				"A file that already says the same is left alone.",
			RunE: func(cmd *cobra.Command, _ []string) error { return o.export(cmd.Context()) },
		},
		&cobra.Command{
			Use: "decrypt", Short: "Write kubeconfig and talosconfig in clear, readable by you only and ignored by git", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return o.decrypt() },
		},
	)
	return root
}

// place fills in what no flag gave.
func (o *settings) place() error {
	if o.stack == "" {
		o.stack = o.getenv(stackVariable)
	}
	if o.stack == "" {
		o.stack = defaultStack
	}
	if filepath.Base(o.stack) != o.stack {
		return fmt.Errorf("stack %q: give its name alone, without organization and project", o.stack)
	}
	given := o.dir != ""
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("folder %s: %w", o.dir, err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "Pulumi.yaml")); err == nil {
			o.dir = dir
			return nil
		}
		parent := filepath.Dir(dir)
		if given {
			return fmt.Errorf("folder %s has no Pulumi.yaml: give --dir the project's folder", dir)
		}
		if parent == dir {
			return errors.New("no Pulumi.yaml here or above: change to the project's folder, or give it with --dir")
		}
		dir = parent
	}
}

func (o *settings) keys() sopsfile.Options { return sopsfile.FromEnvironment(o.dir, o.getenv) }

func (o *settings) export(ctx context.Context) error {
	if err := o.place(); err != nil {
		return err
	}
	outputs, err := o.outputs(ctx, o.dir, o.stack)
	if err != nil {
		return err
	}
	files, err := stack.WriteCredentials(ctx, o.dir, o.stack, outputs, o.keys())
	if err != nil {
		return err
	}
	for _, file := range files {
		o.report(file.Name, file.Changed)
	}
	return nil
}

func (o *settings) report(name string, changed bool) {
	if changed {
		o.people.Success("%s written", name)
	} else {
		o.people.Success("%s unchanged", name)
	}
}

func (o *settings) decrypt() error {
	if err := o.place(); err != nil {
		return err
	}
	// Machine secrets stay encrypted: nothing but a disaster recovery needs them.
	for _, kind := range []string{"kubeconfig", "talosconfig"} {
		encrypted := stack.CredentialFile(kind, o.stack)
		plain, err := sopsfile.Decrypt(filepath.Join(o.dir, encrypted), o.keys())
		if errors.Is(err, sopsfile.ErrMissing) {
			return fmt.Errorf("%s does not exist: `up` writes it, `mise run config:export` writes it again from the stack's state", encrypted)
		}
		if err != nil {
			return err
		}
		changed, err := writePlain(filepath.Join(o.dir, kind), plain)
		if err != nil {
			return fmt.Errorf("write %s: %w", kind, err)
		}
		o.report(kind, changed)
	}
	return nil
}
