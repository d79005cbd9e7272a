package pve

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settle is how long a call that starts a task waits for it, so that a short task has ended before the client's first poll.
const settle = time.Second

// task is a worker process as the API shows it.
type task struct {
	UPID    string    `json:"upid"`
	Node    string    `json:"node"`
	PID     int       `json:"pid"`
	PStart  int       `json:"pstart"`
	Type    string    `json:"type"`
	ID      string    `json:"id"`
	User    string    `json:"user"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Running bool      `json:"running"`
	Exit    string    `json:"exit,omitempty"`
	Log     []string  `json:"log"`

	cancel context.CancelFunc
	done   chan struct{}
}

// worker is what a task's code may use.
type worker struct {
	server   *Server
	task     *task
	warnings int
}

func (w *worker) log(format string, args ...any) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	w.task.Log = append(w.task.Log, strings.Split(fmt.Sprintf(format, args...), "\n")...)
}

// job is a task to be started.
type job struct {
	kind string
	id   string
	node string
	run  func(ctx context.Context, w *worker) error
	// failed cleans up when run failed or was prevented by a fault.
	failed func()
}

// fork starts a task and returns its UPID. The caller holds the server's lock.
func (c *call) fork(j job) string {
	s := c.server
	t := s.newTask(j, c.user)
	delay, exit := s.options.TaskDelay, ""
	if f := c.fault; f != nil {
		delay += time.Duration(f.TaskDelay)
		exit = f.TaskExit
	}
	if s.ctx.Err() != nil { // the server is closing
		t.Running, t.Exit, t.Ended = false, "received interrupt", s.options.Now()
		close(t.done)
		return t.UPID
	}
	ctx, cancel := context.WithCancel(s.ctx)
	t.cancel = cancel
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		defer cancel()
		s.work(ctx, t, j, delay, exit)
	}()
	if delay == 0 {
		c.settling = t.done
	}
	return t.UPID
}

func (s *Server) newTask(j job, user string) *task {
	s.state.NextPID++
	t := &task{
		Node: j.node, PID: s.state.NextPID, PStart: s.state.NextPID * 100, Type: j.kind, ID: j.id, User: user,
		Started: s.options.Now(), Running: true, done: make(chan struct{}),
	}
	t.UPID = fmt.Sprintf("UPID:%s:%08X:%08X:%08X:%s:%s:%s:", t.Node, t.PID, t.PStart, t.Started.Unix(), t.Type, t.ID, t.User)
	s.state.Tasks = append(s.state.Tasks, t)
	return t
}

func (s *Server) work(ctx context.Context, t *task, j job, delay time.Duration, exit string) {
	w := &worker{server: s, task: t}
	err := pause(ctx, delay)
	injectedWarning := strings.HasPrefix(exit, "WARNINGS:")
	switch {
	case err != nil:
		err = die("received interrupt")
	case exit != "" && !injectedWarning:
		err = die("%s", exit)
	default:
		if err = j.run(ctx, w); err != nil && ctx.Err() != nil {
			err = die("received interrupt")
		}
	}
	if err != nil && j.failed != nil {
		j.failed()
	}
	s.mu.Lock()
	t.Exit = "OK"
	switch {
	case err != nil:
		t.Exit = flatten(err)
		t.Log = append(t.Log, "TASK ERROR: "+t.Exit)
	case injectedWarning:
		t.Exit = exit
		t.Log = append(t.Log, "WARN: injected by the sandbox", "TASK "+exit)
	case w.warnings > 0:
		t.Exit = "WARNINGS: " + strconv.Itoa(w.warnings)
		t.Log = append(t.Log, "TASK "+t.Exit)
	default:
		t.Log = append(t.Log, "TASK OK")
	}
	t.Running, t.Ended = false, s.options.Now()
	close(t.done)
	s.mu.Unlock()
	s.changed()
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

var upidPattern = regexp.MustCompile(`^UPID:[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?:[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:[^:\s/]+:[^:\s/]*:[^:\s/]+:$`)

// findTask finds the task of a call and checks that the caller owns it or holds the privilege on its node.
func (c *call) findTask(privilege string) (*task, error) {
	upid := c.params["upid"]
	if !upidPattern.MatchString(upid) {
		return nil, paramError("upid", "unable to parse worker upid")
	}
	index := slices.IndexFunc(c.server.state.Tasks, func(t *task) bool { return t.UPID == upid && t.Node == c.node })
	if index < 0 {
		return nil, paramError("upid", "no such task")
	}
	t := c.server.state.Tasks[index]
	if t.User != c.user {
		if err := c.require("/nodes/"+c.node, privilege); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *task) status() map[string]any {
	user, tokenID, _ := strings.Cut(t.User, "!")
	status := map[string]any{
		"upid": t.UPID, "node": t.Node, "pid": t.PID, "pstart": t.PStart, "starttime": t.Started.Unix(),
		"type": t.Type, "id": t.ID, "user": user, "status": "running",
	}
	if tokenID != "" {
		status["tokenid"] = tokenID
	}
	if !t.Running {
		status["status"], status["exitstatus"] = "stopped", t.Exit
	}
	return status
}

func taskIndex(*call) (any, error) {
	return []map[string]any{{"name": "log"}, {"name": "status"}}, nil
}

func taskStatus(c *call) (any, error) {
	t, err := c.findTask("Sys.Audit")
	if err != nil {
		return nil, err
	}
	return t.status(), nil
}

func taskStop(c *call) (any, error) {
	t, err := c.findTask("Sys.Modify")
	if err != nil {
		return nil, err
	}
	if t.Running && t.cancel != nil {
		t.cancel()
	}
	return nil, nil
}

func taskLog(c *call) (any, error) {
	t, err := c.findTask("Sys.Audit")
	if err != nil {
		return nil, err
	}
	if c.params["download"] == "1" {
		return nil, notImplemented(c.method.verb, c.path+"?download=1")
	}
	start, limit := c.number("start", 0), c.number("limit", 50)
	lines := []map[string]any{}
	for i, text := range t.Log {
		if i >= start && (limit == 0 || len(lines) < limit) {
			lines = append(lines, map[string]any{"n": i + 1, "t": text})
		}
	}
	c.total = len(t.Log)
	return lines, nil
}

func taskList(c *call) (any, error) {
	var list []map[string]any
	for _, t := range slices.Backward(c.server.state.Tasks) {
		if t.Node != c.node || t.User != c.user && !c.may("/nodes/"+c.node, "Sys.Audit") {
			continue
		}
		active := c.params["source"] == "active"
		all := c.params["source"] == "all"
		if !all && t.Running != active || !taskFilter(c, t) {
			continue
		}
		entry := t.status()
		delete(entry, "exitstatus")
		delete(entry, "status")
		entry["user"] = t.User
		if !t.Running {
			entry["status"], entry["endtime"] = t.Exit, t.Ended.Unix()
		}
		list = append(list, entry)
	}
	c.total = len(list)
	start := min(c.number("start", 0), len(list))
	end := min(start+c.number("limit", 50), len(list))
	return append([]map[string]any{}, list[start:end]...), nil
}

func taskFilter(c *call, t *task) bool {
	p := c.params
	failed := t.Exit != "OK" && !strings.HasPrefix(t.Exit, "WARNINGS:")
	switch {
	case p["typefilter"] != "" && p["typefilter"] != t.Type,
		p["vmid"] != "" && p["vmid"] != t.ID,
		p["userfilter"] != "" && !strings.Contains(t.User, p["userfilter"]),
		p["errors"] == "1" && !failed,
		int64(c.number("since", 0)) > t.Started.Unix(),
		p["until"] != "" && int64(c.number("until", 0)) < t.Started.Unix():
		return false
	}
	return true
}
