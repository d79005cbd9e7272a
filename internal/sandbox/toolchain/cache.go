package toolchain

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unusedAfter is how long a build is kept that nobody asks for any more. Going back and forth between branches with
// different pins must not build again each time.
const unusedAfter = 30 * 24 * time.Hour

// entry is one build in the cache: the executable and, beside it, a record of the build.
type entry struct {
	cache string
	tool  Tool
	sum   string
}

// record is what is known about a finished build. It is written last: without it there is no entry.
type record struct {
	Version string  `json:"version"`
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
}

func (e entry) path() string       { return filepath.Join(e.cache, string(e.tool.Name)+"-"+e.sum) }
func (e entry) recordPath() string { return e.path() + ".json" }
func (e entry) lockPath() string   { return filepath.Join(e.cache, string(e.tool.Name)+".lock") }

// workDir makes a folder for the tool's build and removes what processes that were killed have left. The caller holds
// the tool's lock. The folder's name is new each time: a go command whose parent was killed may still write to the old.
func (e entry) workDir() (string, error) {
	pattern := ".build-" + string(e.tool.Name) + ".*"
	left, err := filepath.Glob(filepath.Join(e.cache, pattern))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(e.cache, pattern)
}

// load returns the cached build. One that is damaged (its size is not the recorded one, as after a full disk or a
// power cut) counts as missing.
func (e entry) load() (Origin, bool) {
	raw, err := os.ReadFile(e.recordPath())
	if err != nil {
		return Origin{}, false
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Origin{}, false
	}
	info, err := os.Stat(e.path())
	if err != nil || !executable(info) || info.Size() != r.Bytes {
		return Origin{}, false
	}
	now := time.Now()
	_ = os.Chtimes(e.recordPath(), now, now) // only delays the clean-up
	return Origin{
		Name: e.tool.Name, Version: r.Version, Path: e.path(), Source: Cached, Seconds: r.Seconds, Bytes: r.Bytes,
	}, true
}

// store moves the executable at tmp into the cache.
func (e entry) store(tmp string, took time.Duration) (Origin, error) {
	info, err := os.Stat(tmp)
	if err != nil {
		return Origin{}, err
	}
	r := record{Version: e.tool.Version, Seconds: took.Round(10 * time.Millisecond).Seconds(), Bytes: info.Size()}
	raw, err := json.Marshal(r)
	if err != nil {
		return Origin{}, err
	}
	if err := os.Rename(tmp, e.path()); err != nil {
		return Origin{}, err
	}
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o644); err != nil {
		return Origin{}, err
	}
	if err := os.Rename(tmp, e.recordPath()); err != nil {
		return Origin{}, err
	}
	return Origin{
		Name: e.tool.Name, Version: r.Version, Path: e.path(), Source: Built, Seconds: r.Seconds, Bytes: r.Bytes,
	}, nil
}

// prune removes the tool's other builds that nobody has used for long. The caller holds the tool's lock.
func (e entry) prune(now time.Time) error {
	records, err := filepath.Glob(filepath.Join(e.cache, string(e.tool.Name)+"-*.json"))
	if err != nil {
		return fmt.Errorf("clean up %s: %w", e.cache, err)
	}
	for _, path := range records {
		info, err := os.Stat(path)
		if err != nil || path == e.recordPath() || now.Sub(info.ModTime()) < unusedAfter {
			continue
		}
		// "age-*" also finds the builds of age-keygen, which are none of this tool's.
		sum := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), string(e.tool.Name)+"-"), ".json")
		if len(sum) != len(e.sum) || strings.Contains(sum, "-") {
			continue
		}
		for _, old := range []string{path, strings.TrimSuffix(path, ".json")} {
			if err := os.Remove(old); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("clean up: %w", err)
			}
		}
	}
	return nil
}
