package toolchain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// fingerprint hashes everything that goes into a build: the module's go.mod and go.sum, which cover the dependencies,
// its other files unless the tool comes from a dependency, those of modules that replace others from the file system,
// and what `go build` is told.
func fingerprint(t Tool, dir string, env goEnvironment) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "name %s\nversion %s\npackage %s\nldflags %s\n%s\n",
		t.Name, t.Version, t.Package, t.ldflags(), env.identity())
	seen := map[string]bool{}
	if err := hashModule(h, dir, t.local(), seen); err != nil {
		return "", fmt.Errorf("sources of %s: %w", t.Name, err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// local says whether the tool's package is in its module rather than in one of the dependencies.
func (t Tool) local() bool {
	return t.Package == "." || strings.HasPrefix(t.Package, "./")
}

func hashModule(h io.Writer, dir string, sources bool, seen map[string]bool) error {
	if seen[dir] {
		return nil
	}
	seen[dir] = true
	raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	mod, err := modfile.Parse("go.mod", raw, nil)
	if err != nil {
		return err
	}
	if err := hashFiles(h, dir, sources); err != nil {
		return err
	}
	for _, replace := range mod.Replace {
		if replace.New.Version != "" {
			continue
		}
		target := filepath.FromSlash(replace.New.Path)
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		if err := hashModule(h, target, true, seen); err != nil {
			return fmt.Errorf("replacement of %s: %w", replace.Old.Path, err)
		}
	}
	return nil
}

// hashFiles adds go.mod and go.sum and, with sources, every other file that may be compiled or embedded. Hidden files
// and tests are left out, and so are nested modules, as they are by the go command.
func hashFiles(h io.Writer, dir string, sources bool) error {
	if !sources {
		for _, name := range []string{"go.mod", "go.sum"} {
			err := hashFile(h, dir, filepath.Join(dir, name))
			if err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	}
	// WalkDir goes in lexical order.
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if d.IsDir() {
			_, err := os.Lstat(filepath.Join(path, "go.mod"))
			if err == nil || strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasPrefix(d.Name(), ".") || strings.HasSuffix(d.Name(), "_test.go") || !d.Type().IsRegular() {
			return nil
		}
		return hashFile(h, dir, path)
	})
}

func hashFile(h io.Writer, dir, path string) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "file %q %x\n", filepath.ToSlash(name), sha256.Sum256(content))
	return nil
}
