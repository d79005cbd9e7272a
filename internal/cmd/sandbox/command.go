package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/engine"
	"cloudlab/internal/sandbox/toolchain"
	"cloudlab/internal/stack"
	"cloudlab/internal/term"
)

// folderVariable overrides where the sandbox keeps its state.
const folderVariable = "CLOUDLAB_SANDBOX_DIR"

type streams struct {
	out, err io.Writer
	people   *term.Printer
}

// settings are the flags that all commands share.
type settings struct {
	streams
	dir, config string
	output      string
	diff        bool
	build       bool
	replace     []string
}

func newCommand(s streams) *cobra.Command {
	o := &settings{streams: s}
	root := &cobra.Command{
		Use:   "sandbox",
		Short: "Cloudlab without hardware: the real Pulumi engine and providers against simulated Proxmox and Talos",
		Example: `  go run ./internal/cmd/sandbox up
  eval "$(go run ./internal/cmd/sandbox env)" && talosctl version
  go run ./internal/cmd/sandbox down`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&o.dir, "dir", "", "folder of the sandbox's state (default $"+folderVariable+" or .sandbox beside Pulumi.yaml)")
	root.AddCommand(
		o.operation("up", "Start the hardware if needed and bring the stack up", (*engine.Engine).Up),
		o.operation("preview", "Show what `up` would change", nil),
		o.operation("refresh", "Read the simulated hardware into the stack's state", (*engine.Engine).Refresh),
		o.operation("destroy", "Destroy what the stack made; the hardware keeps running", (*engine.Engine).Destroy),
		o.statusCommand(), o.envCommand(), o.faultCommand(), o.logsCommand(), o.downCommand(), o.hardwareCommand(),
	)
	return root
}

// root finds the project: the nearest folder at or above the current one that has a Pulumi.yaml and the sandbox's sources.
func (o *settings) root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("current folder: %w", err)
	}
	for {
		_, project := os.Stat(filepath.Join(dir, "Pulumi.yaml"))
		_, sources := os.Stat(filepath.Join(dir, "internal", "sandbox"))
		if project == nil && sources == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a clone of Cloudlab: change to its folder, the one with Pulumi.yaml")
		}
		dir = parent
	}
}

func (o *settings) folder() (sandbox.Folder, error) {
	dir := o.dir
	if dir == "" {
		dir = os.Getenv(folderVariable)
	}
	if dir == "" {
		root, err := o.root()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".sandbox")
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("folder %s: %w", dir, err)
	}
	return sandbox.Folder(absolute), nil
}

// tools makes the tool chain ready. It lives in the project, whatever folder the sandbox has, so that sandboxes share it.
func (o *settings) tools(cmd *cobra.Command, folder sandbox.Folder) error {
	root, err := o.root()
	if err != nil {
		return err
	}
	// The official plugins do not trust the sandbox's CA on macOS, where Go ignores SSL_CERT_FILE; those built here do.
	build := o.build || runtime.GOOS == "darwin"
	set, err := toolchain.Ensure(cmd.Context(), toolchain.Options{
		Root: root, Cache: toolchain.DefaultCache(root), Out: o.people, NoInstalled: build,
		Tools: []toolchain.Name{toolchain.Pulumi, toolchain.Proxmoxve, toolchain.Talos},
	})
	if err != nil {
		return err
	}
	return set.PulumiHome(folder.Pulumi())
}

// open prepares everything that an operation of the engine needs.
func (o *settings) open(cmd *cobra.Command) (*engine.Engine, error) {
	root, err := o.root()
	if err != nil {
		return nil, err
	}
	folder, err := o.folder()
	if err != nil {
		return nil, err
	}
	file := o.config
	if file == "" {
		file = filepath.Join(root, "Pulumi."+sandbox.Stack+".yaml")
	}
	configuration, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("stack configuration: %w", err)
	}
	// It holds keys, and nothing else creates it with a mode of its own.
	if err := os.MkdirAll(string(folder), 0o700); err != nil {
		return nil, fmt.Errorf("sandbox folder: %w", err)
	}
	if err := o.tools(cmd, folder); err != nil {
		return nil, err
	}
	remote, err := o.ensureHardware(cmd.Context(), folder)
	if err != nil {
		return nil, err
	}
	if err := folder.Configure(root, configuration); err != nil {
		return nil, err
	}
	progress := o.out
	if o.output == "json" {
		progress = o.err
	}
	return engine.Open(cmd.Context(), engine.Options{
		Folder: folder, Proxy: remote.Proxy, Program: stack.Program(folder.Project()), Out: progress, Color: color(progress), Replace: o.replace,
	})
}

func (o *settings) operation(name, short string, do operationFunc) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := o.open(cmd)
			if err != nil {
				return err
			}
			act := do
			if act == nil {
				act = preview(o.diff)
			}
			summary, err := o.unlocked(cmd.Context(), e, act)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return o.report(name, summary)
		},
	}
	cmd.Flags().StringVar(&o.config, "config", "", "stack configuration (default Pulumi.sandbox.yaml beside Pulumi.yaml)")
	cmd.Flags().StringVar(&o.output, "output", "text", "what goes to standard output: text or json (the number of resources per kind of change)")
	cmd.Flags().BoolVar(&o.build, "build", false, "build the tool chain from source even where it is installed")
	if name == "up" {
		cmd.Flags().StringArrayVar(&o.replace, "replace", nil, "make this resource (URN) anew although nothing about it changed; may be repeated")
	}
	if do == nil {
		cmd.Flags().BoolVar(&o.diff, "diff", false, "show every property that would change")
	}
	return cmd
}

func (o *settings) report(name string, summary engine.Summary) error {
	if o.output == "json" {
		return json.NewEncoder(o.out).Encode(summary)
	}
	switch {
	case summary.Changes() == 0:
		o.people.Success("%s: nothing to change", name)
	case name == "preview":
		o.people.Success("preview: %s", counted(summary.Changes()))
	default:
		o.people.Success("%s: %s made", name, counted(summary.Changes()))
	}
	if name == "up" {
		o.people.Info(`next: eval "$(go run ./internal/cmd/sandbox env)" for talosctl and curl, status, fault, down`)
	}
	return nil
}

func counted(changes int) string {
	if changes == 1 {
		return "1 change"
	}
	return fmt.Sprintf("%d changes", changes)
}

func color(w io.Writer) string {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return "never"
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return "never"
	}
	return "always"
}

func (o *settings) envCommand() *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: "Print shell exports, so that pulumi, talosctl, kubectl and curl reach the sandbox", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, remote, err := o.connect(cmd.Context())
			if err != nil {
				return err
			}
			credentials, err := decryptCredentials(folder)
			if err != nil {
				return err
			}
			variables := append(folder.Environ(remote.Proxy), toolchain.Environ(folder.Pulumi())...)
			variables = append(variables, credentials...)
			for _, entry := range variables {
				key, value, _ := strings.Cut(entry, "=")
				fmt.Fprintf(o.out, "export %s=%s\n", key, quote(value))
			}
			fmt.Fprintf(o.out, "export PATH=%s:\"$PATH\"\n", quote(filepath.Join(folder.Pulumi(), "bin")))
			return nil
		},
	}
}

func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'" }
