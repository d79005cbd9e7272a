package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox"
)

const (
	// startWait bounds the start of the hardware, stopWait its end.
	startWait = 20 * time.Second
	stopWait  = 10 * time.Second
)

func (o *settings) connect(ctx context.Context) (sandbox.Folder, *sandbox.Remote, error) {
	folder, err := o.folder()
	if err != nil {
		return "", nil, err
	}
	remote, err := sandbox.Connect(ctx, folder)
	if errors.Is(err, sandbox.ErrNotRunning) {
		return "", nil, fmt.Errorf("%w: run `up` first", err)
	}
	return folder, remote, err
}

// ensureHardware starts the hardware as a process of its own, unless it runs.
func (o *settings) ensureHardware(ctx context.Context, folder sandbox.Folder) (*sandbox.Remote, error) {
	if remote, err := sandbox.Connect(ctx, folder); err == nil {
		return remote, nil
	}
	step := o.people.Step("simulated hardware")
	remote, err := startHardware(ctx, folder)
	if err != nil {
		step.Fail(err)
		return nil, err
	}
	step.Done("process %d", remote.PID)
	return remote, nil
}

func startHardware(ctx context.Context, folder sandbox.Folder) (*sandbox.Remote, error) {
	if err := folder.Prepare(ctx); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("simulated hardware: %w", err)
	}
	path := filepath.Join(string(folder), "hardware.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("simulated hardware: %w", err)
	}
	defer log.Close() //nolint:errcheck // the child has its own copy
	// Not CommandContext: the hardware outlives this command, in a session of its own so that ^C does not reach it.
	child := exec.Command(self, "hardware", "--dir", string(folder)) //nolint:noctx // see above
	child.Stdout, child.Stderr = log, log
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return nil, fmt.Errorf("simulated hardware: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		if remote, err := sandbox.Connect(ctx, folder); err == nil {
			return remote, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("simulated hardware ended at once (%w): see %s", err, path)
		case <-ctx.Done():
			return nil, fmt.Errorf("simulated hardware did not start within %s: see %s", startWait, path)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (o *settings) hardwareCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hardware", Short: "Run the simulated hardware in the foreground", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := o.folder()
			if err != nil {
				return err
			}
			lab, err := sandbox.Start(cmd.Context(), sandbox.Options{Folder: folder, Log: o.err})
			if err != nil {
				return err
			}
			select {
			case <-cmd.Context().Done():
			case <-lab.Stopping():
			}
			return lab.Close()
		},
	}
}

func (o *settings) downCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the hardware and forget everything but the tool chain; leaves no process behind", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := o.folder()
			if err != nil {
				return err
			}
			remote, err := sandbox.Connect(cmd.Context(), folder)
			if err == nil {
				if err := stopHardware(cmd.Context(), remote); err != nil {
					return err
				}
				o.people.Success("simulated hardware stopped")
			} else {
				o.people.Info("the simulated hardware does not run")
			}
			if keep {
				return nil
			}
			return folder.Forget()
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the state, so that the next `up` finds the machines again")
	return cmd
}

func stopHardware(ctx context.Context, remote *sandbox.Remote) error {
	if err := remote.Stop(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	for syscall.Kill(remote.PID, 0) == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("simulated hardware (process %d) did not stop within %s: end it with `kill %d`", remote.PID, stopWait, remote.PID)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (o *settings) logsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logs [vmid]", Short: "Print the Proxmox API's calls, or a machine's log", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, remote, err := o.connect(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				vmid, err := strconv.Atoi(args[0])
				if err != nil {
					return fmt.Errorf("%q is not a VM ID: `status` lists them", args[0])
				}
				lines, err := remote.Logs(cmd.Context(), vmid)
				for _, line := range lines {
					fmt.Fprintln(o.out, line)
				}
				return err
			}
			requests, err := remote.Requests(cmd.Context())
			for _, r := range requests {
				fmt.Fprintf(o.out, "%s %d %-6s %s %s\n", r.Time.Format(time.TimeOnly), r.Status, r.Method, r.Path, parameters(r.Params))
			}
			return err
		},
	}
}

func parameters(params map[string]string) string {
	if len(params) == 0 {
		return ""
	}
	text, err := json.Marshal(params)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
