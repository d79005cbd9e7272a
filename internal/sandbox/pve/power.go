package pve

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// withMachine runs f with the machine's lock, but not the server's.
func (s *Server) withMachine(ctx context.Context, vmid int, f func() error) error {
	release, err := s.lockMachine(ctx, vmid)
	if err != nil {
		return err
	}
	defer release()
	return f()
}

func (c *call) rootOnly(names ...string) error {
	for _, name := range names {
		if set(c.params, name) {
			return paramError(name, "Only root may use this option.")
		}
	}
	return nil
}

// machineStart is POST …/status/start.
func machineStart(c *call) (any, error) {
	if err := c.rootOnly("stateuri", "skiplock", "migratedfrom", "migration_type", "migration_network", "targetstorage", "force-cpu"); err != nil {
		return nil, err
	}
	s, vmid := c.server, c.vmid()
	return c.fork(job{kind: "qmstart", id: strconv.Itoa(vmid), node: c.node, run: func(ctx context.Context, w *worker) error {
		return s.startLocked(ctx, w, vmid)
	}}), nil
}

func (s *Server) startLocked(ctx context.Context, w *worker, vmid int) error {
	return s.withMachine(ctx, vmid, func() error { return s.start(w, vmid) })
}

// start powers a machine on. The caller holds the machine's lock, not the server's.
func (s *Server) start(w *worker, vmid int) error {
	s.mu.Lock()
	m, err := s.find(w.task.Node, vmid)
	switch {
	case err != nil:
	case m.Config["template"] == "1":
		err = die("you can't start a vm if it's a template")
	default:
		if err = m.checkLock(); err == nil && m.running() {
			err = die("VM %d already running", vmid)
		}
	}
	var hw Hardware
	var log []string
	if err == nil {
		s.applyPending(m)
		if hw, log, err = s.hardware(m); err == nil {
			s.state.NextPID++
			m.PID, m.Started = s.state.NextPID, s.options.Now()
		}
	}
	s.mu.Unlock()
	for _, line := range log {
		w.log("%s", line)
	}
	if err != nil {
		return err
	}
	if err := s.options.Guests.PowerOn(hw); err != nil {
		s.mu.Lock()
		m.PID = 0
		s.mu.Unlock()
		w.log("%v", err)
		return die("start failed: QEMU exited with code 1")
	}
	return nil
}

// halted notes that a machine's process has ended. The caller holds the lock.
func (s *Server) halted(m *machine) {
	m.PID, m.Started = 0, time.Time{}
	s.applyPending(m)
}

// machineStop is POST …/status/stop.
func machineStop(c *call) (any, error) {
	if err := c.rootOnly("skiplock", "keepActive", "migratedfrom"); err != nil {
		return nil, err
	}
	s, vmid, node := c.server, c.vmid(), c.node
	if c.params["overrule-shutdown"] == "1" {
		for _, t := range s.state.Tasks {
			if t.Running && t.Type == "qmshutdown" && t.ID == strconv.Itoa(vmid) && t.cancel != nil {
				t.cancel()
			}
		}
	}
	return c.fork(job{kind: "qmstop", id: strconv.Itoa(vmid), node: node, run: func(ctx context.Context, _ *worker) error {
		return s.withMachine(ctx, vmid, func() error {
			running, err := s.checkRunning(node, vmid)
			if err != nil || !running {
				return err
			}
			s.powerOff(vmid)
			return nil
		})
	}}), nil
}

// checkRunning fails for a machine that does not exist or is locked.
func (s *Server) checkRunning(node string, vmid int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.state.Machines[vmid]
	if m == nil || m.Node != node {
		return false, die("unable to find configuration file for VM %d on node '%s'", vmid, node)
	}
	if !m.running() {
		return false, nil
	}
	return true, m.checkLock()
}

// powerOff pulls the plug.
func (s *Server) powerOff(vmid int) {
	s.options.Guests.PowerOff(vmid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.state.Machines[vmid]; m != nil && m.running() {
		s.halted(m)
	}
}

// machineShutdown is POST …/status/shutdown.
func machineShutdown(c *call) (any, error) {
	if err := c.rootOnly("skiplock", "keepActive"); err != nil {
		return nil, err
	}
	s, vmid, node, force := c.server, c.vmid(), c.node, c.params["forceStop"] == "1"
	timeout := time.Duration(c.number("timeout", -1)) * time.Second
	return c.fork(job{kind: "qmshutdown", id: strconv.Itoa(vmid), node: node, run: func(ctx context.Context, w *worker) error {
		return s.withMachine(ctx, vmid, func() error { return s.shutdown(ctx, w, vmid, timeout, force) })
	}}), nil
}

// shutdown asks a guest to stop and waits. A negative timeout stands for the configured one.
func (s *Server) shutdown(ctx context.Context, w *worker, vmid int, timeout time.Duration, force bool) error {
	running, err := s.checkRunning(w.task.Node, vmid)
	if err != nil || !running {
		return err
	}
	if timeout < 0 {
		timeout = s.shutdownTimeout(vmid)
	}
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = s.options.Guests.Shutdown(waiting, vmid)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if !force {
			if errors.Is(err, context.DeadlineExceeded) {
				return die("VM quit/powerdown failed - got timeout")
			}
			w.log("%v", err)
			return die("VM quit/powerdown failed")
		}
		w.log("VM still running - terminating now with SIGTERM")
	}
	s.powerOff(vmid)
	return nil
}

func (s *Server) shutdownTimeout(vmid int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.state.Machines[vmid]; m != nil {
		for part := range strings.SplitSeq(m.Config["startup"], ",") {
			if seconds, ok := strings.CutPrefix(part, "down="); ok {
				return time.Duration(atoi(seconds)) * time.Second
			}
		}
	}
	return time.Minute
}

// machineReboot is POST …/status/reboot: a shutdown, after which the node's event daemon starts the machine again.
func machineReboot(c *call) (any, error) {
	s, vmid, node := c.server, c.vmid(), c.node
	m := s.state.Machines[vmid]
	if m == nil || m.Node != node {
		return nil, die("unable to find configuration file for VM %d on node '%s'", vmid, node)
	}
	if !m.running() {
		return nil, die("VM %d not running", vmid)
	}
	timeout := time.Duration(c.number("timeout", -1)) * time.Second
	return c.fork(job{kind: "qmreboot", id: strconv.Itoa(vmid), node: node, run: func(ctx context.Context, w *worker) error {
		return s.withMachine(ctx, vmid, func() error {
			if err := s.shutdown(ctx, w, vmid, timeout, false); err != nil {
				return err
			}
			return s.restart(ctx, vmid, node)
		})
	}}), nil
}

// restart starts a machine in a task of root's, as the event daemon does.
func (s *Server) restart(ctx context.Context, vmid int, node string) error {
	j := job{kind: "qmstart", id: strconv.Itoa(vmid), node: node, run: func(_ context.Context, w *worker) error {
		return s.start(w, vmid)
	}}
	s.mu.Lock()
	t := s.newTask(j, "root@pam")
	s.mu.Unlock()
	s.work(ctx, t, j, 0, "")
	return nil
}
