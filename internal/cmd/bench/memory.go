package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// memoryPause is the time between two looks at the processes.
const memoryPause = 100 * time.Millisecond

// memory is the most that was resident at one look, in bytes; pages that processes share count once for each of them.
type memory struct {
	Total int64 `json:"total"`
	// Parts are each process's own most, by the name of its command. The program runs in the sandbox's command.
	Parts map[string]int64 `json:"parts"`
}

// process is one line of ps.
type process struct {
	pid, parent int
	bytes       int64
	name        string
}

// watchMemory looks at a process and its descendants until stop is called. Processes for which skip returns true are left out.
func watchMemory(skip func(pid int) bool) func(pid int) (stop func() memory) {
	return func(root int) func() memory {
		most := memory{Parts: map[string]int64{}}
		quit := make(chan struct{})
		var done sync.WaitGroup
		done.Go(func() {
			ticker := time.NewTicker(memoryPause)
			defer ticker.Stop()
			for {
				select {
				case <-quit:
					return
				case <-ticker.C:
					most.add(family(root, skip))
				}
			}
		})
		return func() memory {
			close(quit)
			done.Wait()
			return most
		}
	}
}

func (m *memory) add(processes []process) {
	total, parts := int64(0), map[string]int64{}
	for _, p := range processes {
		total += p.bytes
		parts[p.name] += p.bytes
	}
	m.Total = max(m.Total, total)
	for name, size := range parts {
		m.Parts[name] = max(m.Parts[name], size)
	}
}

// family lists a process and its descendants. What cannot be seen is left out: the next look may see it.
func family(root int, skip func(int) bool) []process {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=,rss=,args=").Output() //nolint:noctx // ends at once
	if err != nil {
		return nil
	}
	children, byID := map[int][]int{}, map[int]process{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var p process
		if _, err := fmt.Sscan(lines.Text(), &p.pid, &p.parent, &p.bytes, &p.name); err != nil {
			continue
		}
		p.bytes *= 1024
		p.name = filepath.Base(p.name) // comm would be cut off on Linux
		children[p.parent] = append(children[p.parent], p.pid)
		byID[p.pid] = p
	}
	var found []process
	queue := []int{root}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		p, alive := byID[pid]
		if !alive || skip(pid) {
			continue
		}
		found = append(found, p)
		queue = append(queue, children[pid]...)
	}
	return found
}
