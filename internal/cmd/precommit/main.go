// Command precommit refuses a commit that would put a secret in clear into git.
//
// It judges content, not names: a kubeconfig is refused under any name. What it reads is what git would commit, the staged
// content, and not the work tree, which may already hold something else. Without arguments it takes every staged file.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"cloudlab/internal/sopsfile"
)

func main() {
	if err := run(context.Background(), ".", os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "precommit: %v\n", err)
		os.Exit(1)
	}
}

var errRefused = errors.New("refused: encrypt the file with `sops encrypt --in-place FILE`, or unstage it with `git restore --staged FILE`")

// run scans the staged content of the named files, or of all staged files when none is named, in the repository at dir.
// It prints one line a finding and returns errRefused when there is any.
func run(ctx context.Context, dir string, names []string, stderr io.Writer) error {
	if len(names) == 0 {
		out, err := git(ctx, dir, nil, "diff", "--cached", "--name-only", "--diff-filter=d", "--relative", "-z")
		if err != nil {
			return err
		}
		names = strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	}
	blobs, err := staged(ctx, dir, names)
	if err != nil {
		return err
	}
	refused := false
	for _, blob := range blobs {
		for _, finding := range sopsfile.Scan(blob.name, blob.content) {
			refused = true
			fmt.Fprintf(stderr, "%s\n", finding)
		}
	}
	if refused {
		return errRefused
	}
	return nil
}

// blob is the staged content of one file.
type blob struct {
	name    string
	content []byte
}

// staged returns what the index holds for names, in their order. Names that are not in the index (a deletion) and
// submodules have no content and are left out.
func staged(ctx context.Context, dir string, names []string) ([]blob, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var request bytes.Buffer
	for _, name := range names {
		if strings.ContainsRune(name, '\n') {
			return nil, fmt.Errorf("file %q: a name with a line break cannot be checked; rename it", name)
		}
		// ":./" resolves against the current directory, where plain ":" resolves against the top of the repository.
		fmt.Fprintf(&request, ":./%s\n", name)
	}
	out, err := git(ctx, dir, &request, "cat-file", "--batch=%(objecttype) %(objectsize)")
	if err != nil {
		return nil, err
	}
	var blobs []blob
	for _, name := range names {
		header, rest, ok := bytes.Cut(out, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("file %s: git cat-file ended early", name)
		}
		out = rest
		if bytes.HasSuffix(header, []byte(" missing")) {
			continue
		}
		var kind string
		var size int
		if _, err := fmt.Sscanf(string(header), "%s %d", &kind, &size); err != nil || size < 0 || size >= len(out) {
			return nil, fmt.Errorf("file %s: git cat-file answered %q", name, header)
		}
		if kind == "blob" {
			blobs = append(blobs, blob{name: name, content: out[:size]})
		}
		out = out[size+1:]
	}
	return blobs, nil
}

func git(ctx context.Context, dir string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Stdin = dir, stdin
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	return out, nil
}
