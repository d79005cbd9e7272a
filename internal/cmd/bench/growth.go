package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/machine"
)

// Growth is what a cluster of some size costs.
type Growth struct {
	Nodes     int  `json:"nodes"`
	Resources int  `json:"resources"`
	Up        Cost `json:"up"`
	Preview   Cost `json:"preview"`
	Refresh   Cost `json:"refresh"`
}

// Cost is one operation's. Time and memory come from different runs, as looking at the memory takes time.
type Cost struct {
	Seconds float64 `json:"seconds"`
	Memory  memory  `json:"memory"`
	// Proxmox and Talos count API calls.
	Proxmox int `json:"proxmoxCalls"`
	Talos   int `json:"talosCalls"`
}

// maxNodes is how many static addresses lie below the sandbox's DHCP pool.
const maxNodes = 80

func checkSizes(sizes []int) error {
	for _, n := range sizes {
		if n < 1 || n > maxNodes {
			return fmt.Errorf("--nodes %d: expected 1 to %d", n, maxNodes)
		}
	}
	return nil
}

// stackFile describes a cluster: one control plane, or three and a virtual address, and workers, spread over the sandbox's three
// Proxmox nodes.
func stackFile(nodes int) string {
	var b strings.Builder
	b.WriteString(`config:
  cloudlab:proxmox:
    endpoint: https://` + sandbox.ProxmoxAddress + `
    tls: {caFile: proxmox-ca.pem}
  cloudlab:cluster:
    name: bench
    protect: false
`)
	planes := 1
	if nodes >= 3 {
		planes = 3
		b.WriteString("    vip: 192.0.2.10\n")
	}
	b.WriteString("    network: {nameservers: [192.0.2.1]}\n  cloudlab:nodes:\n")
	hosts := []string{"pve", "pve2", "pve3"}
	for i := range nodes {
		name, role := fmt.Sprintf("cp-%d", i+1), "controlplane"
		if i >= planes {
			name, role = fmt.Sprintf("worker-%d", i+1-planes), "worker"
		}
		fmt.Fprintf(&b, "    %s: {role: %s, proxmoxNode: %s, vmId: %d, address: 192.0.2.%d/24, gateway: 192.0.2.1}\n",
			name, role, hosts[i%len(hosts)], 101+i, 11+i)
	}
	return b.String()
}

// grow measures a cluster of this size: a timed round, and one that looks at memory and counts calls.
func (b *bench) grow(ctx context.Context, nodes int) (g Growth, err error) {
	step := b.people.Step(fmt.Sprintf("%d nodes", nodes))
	defer func() {
		if err != nil {
			step.Fail(err)
			return
		}
		step.Done("up %s, preview %s", seconds(g.Up.Seconds), seconds(g.Preview.Seconds))
	}()
	config := filepath.Join(b.work, fmt.Sprintf("Pulumi.%d.yaml", nodes))
	if err := os.WriteFile(config, []byte(stackFile(nodes)), 0o600); err != nil {
		return g, fmt.Errorf("stack configuration: %w", err)
	}
	l := b.newLab(fmt.Sprintf("nodes-%d", nodes), config)
	defer func() { err = errors.Join(err, l.down(ctx)) }()
	g.Nodes = nodes
	// The hardware runs before anything is measured; on an empty stack, refresh does no more than that.
	for _, timed := range []bool{true, false} {
		if _, err := l.run(ctx, "refresh", nil); err != nil {
			return g, err
		}
		for _, o := range []struct {
			operation string
			cost      *Cost
			change    bool
		}{{"up", &g.Up, true}, {"preview", &g.Preview, false}, {"refresh", &g.Refresh, false}} {
			step.Update("%s", o.operation)
			if timed {
				err = l.time(ctx, o.operation, o.change, o.cost)
			} else {
				err = l.count(ctx, o.operation, o.change, o.cost, &g.Resources)
			}
			if err != nil {
				return g, err
			}
		}
		if timed {
			if err := l.down(ctx); err != nil {
				return g, err
			}
		}
	}
	return g, nil
}

// time measures an operation: once when it changes something, else the median of some runs.
func (l *lab) time(ctx context.Context, operation string, change bool, cost *Cost) error {
	runs := l.bench.runs
	if change {
		runs = 1
	}
	var samples []time.Duration
	for range runs {
		took, err := l.expect(ctx, operation, change)
		if err != nil {
			return err
		}
		samples = append(samples, took)
	}
	cost.Seconds = newSeries(operation, 0, samples).Median
	return nil
}

// count runs an operation while it looks at the memory and counts the calls.
func (l *lab) count(ctx context.Context, operation string, change bool, cost *Cost, resources *int) error {
	hardware, err := sandbox.Connect(ctx, l.folder)
	if err != nil {
		return err
	}
	before, err := hardware.Requests(ctx)
	if err != nil {
		return err
	}
	// A fault that disturbs nothing counts the calls that it sees.
	counter, err := hardware.AddFault(ctx, sandbox.Fault{Talos: &machine.Fault{Delay: 1}})
	if err != nil {
		return err
	}
	result, err := l.run(ctx, operation, watchMemory(func(pid int) bool { return pid == hardware.PID }))
	if err != nil {
		return err
	}
	if err := result.check(operation, change); err != nil {
		return err
	}
	after, err := hardware.Requests(ctx)
	if err != nil {
		return err
	}
	status, err := hardware.Status(ctx)
	if err != nil {
		return err
	}
	for _, fault := range status.Faults {
		if fault.Talos != nil && fault.Talos.ID == counter {
			cost.Talos = fault.Talos.Seen
		}
	}
	cost.Proxmox, cost.Memory = len(after)-len(before), result.memory
	*resources = 0
	for _, n := range result.changes {
		*resources += n
	}
	return hardware.ClearFault(ctx, counter)
}
