package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/blang/semver"
	"github.com/pulumi/pulumi/sdk/v3"
)

// stopGrace is how long an interrupted pulumi may take to save its state.
const stopGrace = 10 * time.Second

// cli runs the pulumi command for the Automation API. What the API asks the command although the answer is known or wanted by nobody
// is answered here: every start of the command costs 0.2 s, and 0.2 s more when it needs the key of the stack's secrets
// (docs/performance.md).
type cli struct {
	path string
	// answers are by the command's first two words, such as "stack select".
	answers map[string]string
}

// Version is at least the SDK's: the tool chain accepts no older command.
func (c *cli) Version() semver.Version { return sdk.Version }

// Run follows the contract of auto.PulumiCommand: what the command wrote, and its exit code, negative when it did not start.
func (c *cli) Run(ctx context.Context, dir string, in io.Reader, out, errOut []io.Writer, environment []string, args ...string) (string, string, int, error) {
	if answer, known := c.answers[strings.Join(args[:min(2, len(args))], " ")]; known {
		return answer, "", 0, nil
	}
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--non-interactive"}, args...)...)
	cmd.Dir, cmd.Stdin = dir, in
	cmd.Env = append(append(os.Environ(), environment...), "PULUMI_AUTOMATION_API=true")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(append(out, &stdout)...), io.MultiWriter(append(errOut, &stderr)...)
	// A group of its own: ^C reaches pulumi once, through Cancel, and it ends in good order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopGrace
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), stderr.String(), 0, nil
	case errors.As(err, &exit):
		return stdout.String(), stderr.String(), exit.ExitCode(), err
	default:
		return stdout.String(), stderr.String(), -1, fmt.Errorf("run %s: %w", c.path, err)
	}
}
