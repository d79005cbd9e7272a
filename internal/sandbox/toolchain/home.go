package toolchain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// PulumiHome makes dir a Pulumi home with the set's tools: commands in bin/ and resource plugins in plugins/, as the
// official installer and `pulumi plugin install` lay them out. With Environ the engine then runs from dir alone,
// without a network; `auto.PulumiCommandOptions{Root: dir}` and PATH=dir/bin find the commands. Calling it again
// replaces what has changed and touches nothing else, also while the tools run.
func (s *Set) PulumiHome(dir string) error {
	for _, t := range s.tools {
		folder := filepath.Join(dir, "bin")
		if t.Plugin != "" {
			// A real folder: the engine overlooks links in plugins/. It needs no metadata file where the executable
			// has the plugin's name.
			folder = filepath.Join(dir, "plugins", t.pluginDir())
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("pulumi home: %w", err)
		}
		if err := place(s.origins[t.Name], filepath.Join(folder, string(t.Name))); err != nil {
			return fmt.Errorf("pulumi home: %s: %w", t.Name, err)
		}
		if t.Plugin == "" {
			continue
		}
		// The mark of a half-finished installation would hide the plugin.
		if err := os.Remove(folder + ".partial"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pulumi home: %w", err)
		}
	}
	return nil
}

// Environ returns the variables that make Pulumi use the home that PulumiHome made, and nothing else: no downloaded
// plugins, no plugins from PATH, no look for a newer release.
func Environ(home string) []string {
	return []string{
		"PULUMI_HOME=" + home,
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION=true",
		"PULUMI_IGNORE_AMBIENT_PLUGINS=true",
		"PULUMI_SKIP_UPDATE_CHECK=true",
	}
}

// place makes the tool available at path, atomically.
func place(o Origin, path string) error {
	wanted, err := os.Stat(o.Path)
	if err != nil {
		return err
	}
	if present, err := os.Stat(path); err == nil && os.SameFile(present, wanted) {
		return nil
	}
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// An installed tool is linked to by name, so that it finds what lies beside its real path (the language hosts
	// beside pulumi). A built one is hard-linked where that works, so that cleaning the cache does not break the home.
	if o.Source == Installed || os.Link(o.Path, tmp) != nil {
		if err := os.Symlink(o.Path, tmp); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	// Renaming one hard link onto another of the same file does nothing and leaves both.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
