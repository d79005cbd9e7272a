package toolchain

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// probeTimeout bounds asking an installed command for its version; one that hangs is not used.
const probeTimeout = 10 * time.Second

// findInstalled looks for the tool on this machine. Whatever is missing, broken or of another version is not found.
func findInstalled(ctx context.Context, t Tool) (Origin, bool) {
	if t.Plugin != "" {
		return findInstalledPlugin(t)
	}
	path, err := exec.LookPath(string(t.Name))
	if err != nil {
		return Origin{}, false
	}
	if path, err = filepath.Abs(path); err != nil {
		return Origin{}, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return Origin{}, false
	}
	version := findVersion(probe(ctx, path, t.Probe))
	if !t.Accept.accepts(t.Version, version) {
		return Origin{}, false
	}
	return Origin{Name: t.Name, Version: version, Path: path, Source: Installed, Bytes: info.Size()}, true
}

// probe returns what the command prints about its version, empty when it fails.
func probe(ctx context.Context, path string, args []string) string {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "PULUMI_SKIP_UPDATE_CHECK=true", "SOPS_DISABLE_VERSION_CHECK=true")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// findInstalledPlugin looks where `pulumi plugin install` puts plugins.
func findInstalledPlugin(t Tool) (Origin, bool) {
	home := os.Getenv("PULUMI_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return Origin{}, false
		}
		home = filepath.Join(user, ".pulumi")
	}
	dir, err := filepath.Abs(filepath.Join(home, "plugins", t.pluginDir()))
	if err != nil {
		return Origin{}, false
	}
	// Pulumi leaves this file beside the folder of a plugin while and if it is only half installed.
	if _, err := os.Lstat(dir + ".partial"); err == nil {
		return Origin{}, false
	}
	path := filepath.Join(dir, string(t.Name))
	info, err := os.Stat(path)
	if err != nil || !executable(info) {
		return Origin{}, false
	}
	return Origin{Name: t.Name, Version: t.Version, Path: path, Source: Installed, Bytes: info.Size()}, true
}

func executable(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
