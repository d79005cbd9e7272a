package toolchain

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// BuildError is a failed build. Its text has the last lines of the go command's output and the next step.
type BuildError struct {
	Tool   Name
	Output []string // last lines of the go command's output
	Next   string   // what a person should do
	Err    error    // how the go command ended
}

func (e *BuildError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "build %s: %v", e.Tool, e.Err)
	for _, line := range e.Output {
		b.WriteString("\n  " + line)
	}
	b.WriteString("\nnext: " + e.Next)
	return b.String()
}

// Unwrap returns how the go command ended.
func (e *BuildError) Unwrap() error { return e.Err }

func newBuildError(t Tool, err error, output []string) *BuildError {
	return &BuildError{Tool: t.Name, Output: output, Next: nextStep(t, strings.Join(output, "\n")), Err: err}
}

// nextStep derives what to do from the go command's output. The first pattern that matches decides: the particular
// ones come before those that also match their text.
func nextStep(t Tool, output string) string {
	hints := []struct{ pattern, next string }{
		{
			`no space left on device|disk quota exceeded`,
			"free disk space: a first build of all tools needs several gigabytes in the Go caches (`go env GOCACHE GOMODCACHE`)",
		},
		{
			`module lookup disabled by GOPROXY`,
			"the modules are not on this machine and GOPROXY is off: set GOPROXY=https://proxy.golang.org,direct",
		},
		{
			`missing go\.sum entry|updates to go\.(mod|sum) needed|(cannot find|no required) module prov`,
			"run `go mod tidy` in " + t.Module + " and commit the result",
		},
		{
			`checksum mismatch|SECURITY ERROR`,
			"the download is not what go.sum pins: run `go clean -modcache` and try again; " +
				"if it stays so, do not trust the proxy (GOPROXY)",
		},
		{
			`requires go >= |toolchain not available|invalid go version`,
			"install the Go version that " + t.Module + "/go.mod names, or allow its download with GOTOOLCHAIN=auto",
		},
		{
			`sum\.golang\.org|verifying module`,
			"the checksum database cannot be reached: check the network, or set GOSUMDB as your site prescribes",
		},
		{
			`dial tcp|no such host|i/o timeout|connection (refused|reset)|TLS handshake|network is unreachable|proxyconnect`,
			"the Go module proxy cannot be reached: check the network and HTTPS_PROXY, or set GOPROXY to one that can be",
		},
		{
			`(403|404|410) |reading https?://|unrecognized import path|unknown revision`,
			"the Go module proxy does not have this version: try GOPROXY=https://proxy.golang.org,direct",
		},
		{
			`signal: killed|cannot allocate memory|out of memory`,
			"the compiler ran out of memory: free some, or build with GOFLAGS=-p=1",
		},
		{
			`permission denied|read-only file system`,
			"make the Go caches writable (`go env GOCACHE GOMODCACHE`)",
		},
	}
	for _, hint := range hints {
		if regexp.MustCompile(hint.pattern).MatchString(output) {
			return hint.next
		}
	}
	return fmt.Sprintf("see what the compiler says: (cd %s && CGO_ENABLED=0 GOWORK=off go build -o /dev/null %s)",
		t.Module, t.Package)
}

// summary is the error in one line, for the live display; the caller of Ensure gets the whole.
func summary(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errors.New("stopped")
	}
	if build, ok := errors.AsType[*BuildError](err); ok {
		return build.Err
	}
	return err
}
