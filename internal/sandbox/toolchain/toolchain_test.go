package toolchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/term"
)

const helloSource = `package main

import "os"

var version = "unset"

func main() { os.Stdout.WriteString("hello " + version + "\n") }
`

// project makes a project with one tool module and returns options that use nothing of this machine but Go.
func project(t *testing.T, source string) (Options, Tool) {
	t.Helper()
	root := t.TempDir()
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOPROXY", "off")
	t.Setenv("PULUMI_HOME", t.TempDir())
	write(t, filepath.Join(root, "tools/hello/go.mod"), "module example.test/hello\n\ngo 1.24\n", 0o644)
	write(t, filepath.Join(root, "tools/hello/main.go"), source, 0o644)
	return Options{Root: root, Cache: filepath.Join(t.TempDir(), "cache")}, Tool{
		Name: "hello", Module: "tools/hello", Package: ".", Version: "v1.2.3", VersionVariable: "main.version",
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// ensureOne runs ensure for one tool and returns where it came from.
func ensureOne(t *testing.T, o Options, tool Tool) Origin {
	t.Helper()
	set, err := ensure(t.Context(), o, []Tool{tool})
	if err != nil {
		t.Fatal(err)
	}
	origins := set.Origins()
	if len(origins) != 1 || origins[0].Path != set.Path(tool.Name) {
		t.Fatalf("origins %+v, path %q", origins, set.Path(tool.Name))
	}
	return origins[0]
}

func output(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestBuildThenCache(t *testing.T) {
	o, tool := project(t, helloSource)
	var out bytes.Buffer
	o.Out = term.New(&out)

	write(t, filepath.Join(o.Cache, ".build-hello.1/hello"), "left by a process that was killed", 0o755)
	built := ensureOne(t, o, tool)
	if built.Source != Built || built.Bytes == 0 || built.Seconds == 0 || built.Version != "v1.2.3" {
		t.Errorf("first: %+v", built)
	}
	if got := output(t, built.Path); got != "hello v1.2.3\n" {
		t.Errorf("the built tool prints %q: the version is not linked in", got)
	}
	if got := out.String(); !strings.HasPrefix(got, "► build hello v1.2.3\n✔ build hello v1.2.3: ") {
		t.Errorf("progress:\n%s", got)
	}

	cached := ensureOne(t, o, tool)
	want := built
	want.Source = Cached
	if d := cmp.Diff(want, cached); d != "" {
		t.Errorf("second (-want +got):\n%s", d)
	}
	left, err := filepath.Glob(filepath.Join(o.Cache, ".build-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
	raw, err := os.ReadFile(filepath.Join(o.Root, "tools/hello/go.mod"))
	if err != nil || string(raw) != "module example.test/hello\n\ngo 1.24\n" {
		t.Errorf("the build changed go.mod: %q, %v", raw, err)
	}
}

func TestChangedContentBuildsAgain(t *testing.T) {
	module := func(o Options, name string) string { return filepath.Join(o.Root, "tools/hello", name) }
	tests := []struct {
		name   string
		change func(t *testing.T, o Options, tool *Tool)
		want   Source
	}{
		{"nothing", func(*testing.T, Options, *Tool) {}, Cached},
		{"source", func(t *testing.T, o Options, _ *Tool) {
			write(t, module(o, "main.go"), helloSource+"// changed\n", 0o644)
		}, Built},
		{"go.mod", func(t *testing.T, o Options, _ *Tool) {
			write(t, module(o, "go.mod"), "module example.test/hello\n\ngo 1.23\n", 0o644)
		}, Built},
		{"embedded file", func(t *testing.T, o Options, _ *Tool) {
			write(t, module(o, "data/schema.json"), "{}", 0o644)
		}, Built},
		{"version", func(_ *testing.T, _ Options, tool *Tool) { tool.Version = "v1.2.4" }, Built},
		{"test", func(t *testing.T, o Options, _ *Tool) {
			write(t, module(o, "main_test.go"), "package main\n", 0o644)
		}, Cached},
		{"hidden file", func(t *testing.T, o Options, _ *Tool) { write(t, module(o, ".DS_Store"), "x", 0o644) }, Cached},
		{"nested module", func(t *testing.T, o Options, _ *Tool) {
			write(t, module(o, "nested/go.mod"), "module example.test/nested\n", 0o644)
		}, Cached},
		{"user's GOFLAGS", func(t *testing.T, _ Options, _ *Tool) { t.Setenv("GOFLAGS", "-tags=other") }, Cached},
		{"truncated executable", func(t *testing.T, o Options, _ *Tool) {
			builds, err := filepath.Glob(filepath.Join(o.Cache, "hello-*.json"))
			if err != nil || len(builds) != 1 {
				t.Fatal(builds, err)
			}
			if err := os.Truncate(strings.TrimSuffix(builds[0], ".json"), 10); err != nil {
				t.Fatal(err)
			}
		}, Built},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o, tool := project(t, helloSource)
			ensureOne(t, o, tool)
			test.change(t, o, &tool)
			got := ensureOne(t, o, tool)
			if got.Source != test.want {
				t.Errorf("the tool is %s, want %s", got.Source, test.want)
			}
			output(t, got.Path)
		})
	}
}

func TestReplacedModuleIsHashed(t *testing.T) {
	o, tool := project(t, "package main\n\nimport \"example.test/lib\"\n\nfunc main() { print(lib.Text) }\n")
	write(t, filepath.Join(o.Root, "tools/hello/go.mod"), `module example.test/hello

go 1.24

require example.test/lib v0.0.0

replace example.test/lib => ../../lib
`, 0o644)
	write(t, filepath.Join(o.Root, "lib/go.mod"), "module example.test/lib\n", 0o644)
	write(t, filepath.Join(o.Root, "lib/lib.go"), "package lib\n\nconst Text = \"a\"\n", 0o644)
	first := ensureOne(t, o, tool)
	write(t, filepath.Join(o.Root, "lib/lib.go"), "package lib\n\nconst Text = \"b\"\n", 0o644)
	if second := ensureOne(t, o, tool); second.Source != Built || second.Path == first.Path {
		t.Errorf("after a change in the replaced module: %+v", second)
	}
}

func TestConcurrentEnsureBuildsOnce(t *testing.T) {
	o, tool := project(t, helloSource)
	var mu sync.Mutex
	sources := map[Source]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			set, err := ensure(t.Context(), o, []Tool{tool})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			sources[set.Origins()[0].Source]++
		})
	}
	wg.Wait()
	if d := cmp.Diff(map[Source]int{Built: 1, Cached: 3}, sources); d != "" {
		t.Errorf("sources (-want +got):\n%s", d)
	}
}

func TestFailedBuild(t *testing.T) {
	tests := []struct {
		name, source string
		change       func(t *testing.T, o *Options, tool *Tool)
		want         []string
	}{
		{
			name: "compile error", source: "package main\n\nfunc main() { undefinedThing() }\n",
			want: []string{
				"build hello: exit status 1", "main.go:3:15: undefined: undefinedThing",
				"next: see what the compiler says: (cd tools/hello && CGO_ENABLED=0 GOWORK=off go build -o /dev/null .)",
			},
		},
		{
			name: "missing requirement", source: "package main\n\nimport _ \"example.test/missing\"\n\nfunc main() {}\n",
			want: []string{"example.test/missing"},
		},
		{
			name: "module not on this machine", source: "package main\n\nimport _ \"example.test/missing\"\n\nfunc main() {}\n",
			change: func(t *testing.T, o *Options, _ *Tool) {
				write(t, filepath.Join(o.Root, "tools/hello/go.mod"),
					"module example.test/hello\n\ngo 1.24\n\nrequire example.test/missing v1.0.0\n", 0o644)
				write(t, filepath.Join(o.Root, "tools/hello/go.sum"),
					"example.test/missing v1.0.0 h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"+
						"example.test/missing v1.0.0/go.mod h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", 0o644)
			},
			want: []string{
				"module lookup disabled by GOPROXY=off", "next: the modules are not on this machine and GOPROXY is off",
			},
		},
		{
			name: "broken go.mod", source: helloSource,
			change: func(t *testing.T, o *Options, _ *Tool) {
				write(t, filepath.Join(o.Root, "tools/hello/go.mod"), "modul x\n", 0o644)
			},
			want: []string{"hello", "go.mod:1"},
		},
		{
			name: "wrong folder", source: helloSource,
			change: func(t *testing.T, o *Options, _ *Tool) { o.Root = t.TempDir() },
			want:   []string{"build hello: its module is missing; next: run in the project folder"},
		},
		{
			name: "no go command", source: helloSource,
			change: func(t *testing.T, _ *Options, _ *Tool) { t.Setenv("PATH", t.TempDir()) },
			want: []string{
				"build hello: the go command is not on PATH; next: install Go from https://go.dev/dl/, or hello v1.2.3",
			},
		},
		{
			name: "unknown tool", source: helloSource,
			change: func(_ *testing.T, o *Options, _ *Tool) { o.Tools = []Name{"hammer"} },
			want:   []string{`unknown tool "hammer": it is one of hello`},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o, tool := project(t, test.source)
			if test.change != nil {
				test.change(t, &o, &tool)
			}
			_, err := ensure(t.Context(), o, []Tool{tool})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

// A fake go command, which starts a child of its own that ignores the interrupt as a stuck compiler would.
const stuckGo = `#!/bin/sh
case $1 in
env) echo '{}' ;;
list) printf 'example.test/hello\ttrue\n' ;;
build)
	sh -c 'trap "" INT; echo $$ >"$PIDS/child"; while :; do sleep 0.1; done' &
	echo $$ >"$PIDS/go"
	wait ;;
esac
`

func TestCancellationStopsChildren(t *testing.T) {
	o, tool := project(t, helloSource)
	bin, pids := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bin, "go"), stuckGo, 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("PIDS", pids)
	var out bytes.Buffer
	o.Out = term.New(&out)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for t.Context().Err() == nil {
			_, err1 := os.Stat(filepath.Join(pids, "child"))
			_, err2 := os.Stat(filepath.Join(pids, "go"))
			if err1 == nil && err2 == nil {
				cancel()
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, err := ensure(ctx, o, []Tool{tool})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want a cancellation", err)
	}
	if !strings.Contains(out.String(), "✗ build hello v1.2.3: stopped") {
		t.Errorf("progress:\n%s", out.String())
	}
	for _, name := range []string{"go", "child"} {
		raw, err := os.ReadFile(filepath.Join(pids, name))
		if err != nil {
			t.Fatal(err)
		}
		pid := strings.TrimSpace(string(raw))
		deadline := time.Now().Add(5 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Errorf("%s (process %s) still runs", name, pid)
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// The lock is free again, and what the build left is no obstacle.
	t.Setenv("PATH", strings.TrimPrefix(os.Getenv("PATH"), bin+":"))
	if got := ensureOne(t, o, tool); got.Source != Built {
		t.Errorf("after the cancellation: %+v", got)
	}
}

// alive says whether the process runs; an orphan that nobody has reaped yet does not.
func alive(pid string) bool {
	out, err := exec.Command("ps", "-o", "stat=", "-p", pid).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func TestFailureStopsOtherBuilds(t *testing.T) {
	o, bad := project(t, "package main\n\nfunc main() { undefinedThing() }\n")
	write(t, filepath.Join(o.Root, "tools/other/go.mod"), "module example.test/other\n\ngo 1.24\n", 0o644)
	write(t, filepath.Join(o.Root, "tools/other/main.go"), helloSource, 0o644)
	o.Parallel = 1
	var table []Tool
	for i := range 5 {
		table = append(table, Tool{
			Name: Name(fmt.Sprint("other", i)), Module: "tools/other", Package: ".", Version: "v1.0.0",
		})
	}
	_, err := ensure(t.Context(), o, append(table, bad))
	if err == nil {
		t.Fatal("no error")
	}
	if text := err.Error(); !strings.Contains(text, "build hello: exit status 1") || strings.Contains(text, "other") {
		t.Errorf("error %v, want the compile error alone", err)
	}
}

func TestPrune(t *testing.T) {
	cache := t.TempDir()
	now := time.Now()
	files := map[string]time.Duration{ // age of each build's record
		"age-aaaaaaaaaaaaaaaa":        40 * 24 * time.Hour, // the current one
		"age-bbbbbbbbbbbbbbbb":        40 * 24 * time.Hour,
		"age-cccccccccccccccc":        time.Hour,
		"age-keygen-dddddddddddddddd": 40 * 24 * time.Hour,
	}
	for name, age := range files {
		write(t, filepath.Join(cache, name), "x", 0o755)
		write(t, filepath.Join(cache, name+".json"), "{}", 0o644)
		if err := os.Chtimes(filepath.Join(cache, name+".json"), now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	e := entry{cache: cache, tool: Tool{Name: Age}, sum: "aaaaaaaaaaaaaaaa"}
	if err := e.prune(now); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{
		"age-aaaaaaaaaaaaaaaa", "age-aaaaaaaaaaaaaaaa.json", "age-cccccccccccccccc", "age-cccccccccccccccc.json",
		"age-keygen-dddddddddddddddd", "age-keygen-dddddddddddddddd.json",
	}
	if d := cmp.Diff(want, left); d != "" {
		t.Errorf("cache (-want +got):\n%s", d)
	}
}
