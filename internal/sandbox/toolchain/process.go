package toolchain

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

const (
	tailLines = 20 // of a failed build's output
	// stopGrace is how long an interrupted go command may take to remove its temporary files.
	stopGrace = 5 * time.Second
)

// run runs a go command for the tool in a process group of its own. Each line of its standard error goes to progress;
// those that progress does not recognise are kept for the error. When ctx ends, the whole group is interrupted, then
// killed: the go command's compilers must not outlive it.
func run(ctx context.Context, t Tool, cmd *exec.Cmd, progress func(line string) bool) error {
	stderr := &lineWriter{line: progress}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("build %s: %w", t.Name, err)
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // no such process: all are gone already
		return fmt.Errorf("build %s: stopped: %w", t.Name, ctx.Err())
	}
	if err != nil {
		stderr.flush()
		return newBuildError(t, err, stderr.tail)
	}
	return nil
}

// lineWriter cuts a stream into lines and keeps the last of those that line returns false for.
type lineWriter struct {
	line func(string) bool
	rest []byte
	tail []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		w.add(string(line))
		w.rest = rest
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.add(string(w.rest))
		w.rest = nil
	}
}

func (w *lineWriter) add(line string) {
	if w.line(line) {
		return
	}
	w.tail = append(w.tail, line)
	if len(w.tail) > tailLines {
		w.tail = w.tail[1:]
	}
}
