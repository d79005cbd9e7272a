package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cloudlab/internal/sopsfile"
)

// TestProcesses: no secret is in the arguments or the environment of the processes that an up consists of.
func TestProcesses(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), operationLimit)
	defer cancel()
	cmd := l.process(ctx, "up")
	var people bytes.Buffer
	cmd.Stderr = &people
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	seen := map[string]bool{}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("up: %v\n%s", err, tail(people.String(), 40))
			}
			running = false
		case <-tick.C:
			l.observe(seen)
		}
	}
	var all strings.Builder
	for text := range seen {
		all.WriteString(text)
	}
	for _, want := range []string{"/pulumi\x00", "pulumi-resource-proxmoxve\x00", "pulumi-resource-talos\x00", "PULUMI_CONFIG_PASSPHRASE_FILE="} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no process with %q seen", want)
		}
	}
	secrets := l.secretValues()
	for kind, file := range map[string]string{"age key": sopsfile.KeyFileName, "passphrase": ".passphrase"} {
		raw, err := os.ReadFile(l.projectFile(file))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(raw))
		secrets[kind] = lines[len(lines)-1]
	}
	for _, leak := range leaks("arguments and environments", []byte(all.String()), secrets) {
		t.Errorf("in clear: %s", leak)
	}
}

// observe adds the arguments and environments of all processes that know this sandbox's folder.
func (l *lab) observe(seen map[string]bool) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		l.t.Error(err)
	}
	for _, process := range processes {
		// A process may end while it is looked at.
		arguments, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(process, "environ"))
		text := string(arguments) + "\n" + string(environment) + "\n"
		if strings.Contains(text, string(l.Folder())) {
			seen[text] = true
		}
	}
}
