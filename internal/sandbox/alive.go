package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// engineName is what a process of Pulumi's command is called.
const engineName = "pulumi"

// engineAlive tells whether a process number is a living engine. After a reboot the number may be somebody else's, and a killed process
// whose parent died with it may stay as a zombie where nobody reaps, as in many containers.
func engineAlive(pid int) bool {
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	name, state, err := processState(pid)
	if err != nil {
		return true // somebody is there: not to be disturbed on a guess
	}
	return state != "Z" && filepath.Base(name) == engineName
}

// processState returns a process' name and the first letter of its state.
func processState(pid int) (name, state string, err error) {
	if raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")); err == nil {
		// "pid (name) state …", where the name may hold anything.
		begin, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
		if fields := strings.Fields(string(raw[end+1:])); begin >= 0 && end > begin && len(fields) > 0 {
			return string(raw[begin+1 : end]), fields[0], nil
		}
	}
	raw, err := exec.Command("ps", "-o", "stat=,comm=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // reads the process table and ends
	if err != nil {
		return "", "", fmt.Errorf("ps %d: %w", pid, err)
	}
	state, name, found := strings.Cut(strings.TrimSpace(string(raw)), " ")
	if !found {
		return "", "", fmt.Errorf("ps %d: %q", pid, raw)
	}
	return strings.TrimSpace(name), state[:1], nil
}
