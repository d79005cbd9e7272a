package toolchain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
)

// goEnvironment is what changes the result of a build.
type goEnvironment struct {
	GOVERSION, GOEXPERIMENT, GOFIPS140      string
	GO386, GOAMD64, GOARM, GOARM64, GOPPC64 string
	GORISCV64                               string
}

func (e goEnvironment) identity() string {
	return fmt.Sprintf("%s/%s cgo=0 %+v", runtime.GOOS, runtime.GOARCH, e)
}

// names lists the variables. Asked for all there are, the go command would start a C compiler to learn its flags.
func (e goEnvironment) names() []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(e)) {
		names = append(names, field.Name)
	}
	return names
}

// environment returns the go command's environment for the module in dir; the module's go.mod may select another
// version of Go than the one installed.
func environment(ctx context.Context, t Tool, dir string) (goEnvironment, error) {
	var e goEnvironment
	if _, err := exec.LookPath("go"); err != nil {
		hint := "install Go from https://go.dev/dl/"
		if t.Plugin == "" {
			hint += fmt.Sprintf(", or %s %s", t.Name, t.Version)
		}
		return e, fmt.Errorf("build %s: the go command is not on PATH; next: %s", t.Name, hint)
	}
	if _, err := os.Stat(dir); err != nil {
		return e, fmt.Errorf("build %s: its module is missing; next: run in the project folder: %w", t.Name, err)
	}
	cmd := goCommand(ctx, dir, append([]string{"env", "-json"}, e.names()...)...)
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return e, newBuildError(t, err, strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n"))
		}
		return e, fmt.Errorf("build %s: go env: %w", t.Name, err)
	}
	if err := json.Unmarshal(out, &e); err != nil {
		return e, fmt.Errorf("build %s: go env: %w", t.Name, err)
	}
	return e, nil
}

// goCommand prepares a go command that builds for this machine, whatever the user's environment says.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PWD="+dir,
		"CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH,
		"GOWORK=off", // a workspace would replace the pinned dependencies
		"GOFLAGS="+safeFlags(os.Getenv("GOFLAGS")),
	)
	return cmd
}

// safeFlags keeps those of the user's GOFLAGS that do not change what is built. Others would build something else
// than the fingerprint says (-tags), break the build (-race, -mod=vendor) or edit the pins (-mod=mod).
func safeFlags(flags string) string {
	// Never empty, or the go command would take the GOFLAGS that `go env -w` has stored.
	safe := "-buildvcs=false"
	for _, flag := range strings.Fields(flags) {
		name, _, _ := strings.Cut(strings.TrimPrefix(flag, "-"), "=")
		switch strings.TrimPrefix(name, "-") {
		case "p", "modcacherw":
			safe += " " + flag
		}
	}
	return safe
}
