package pve

import (
	"context"
	"errors"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// call is one API request on its way through the server.
type call struct {
	server  *Server
	ctx     context.Context // the request's
	request *http.Request
	path    string // below /api2/json, unescaped
	method  *method
	user    string
	node    string
	params  map[string]string
	given   map[string]value // the parameters as they came, without those in the path
	fault   *Fault

	temporary string // an upload's file, until its task owns it

	total    int           // of a list that is returned in part
	settling chan struct{} // closed when the task has ended that the answer should wait for
}

// errDropped makes the server close the connection without an answer.
var errDropped = errors.New("connection dropped by a fault")

const apiPrefix = "/api2/json"

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, apiPrefix)
	if !ok || rest != "" && !strings.HasPrefix(rest, "/") {
		writeError(w, r, &apiError{status: http.StatusNotImplemented, message: "no such uri"})
		return
	}
	c := &call{server: s, ctx: r.Context(), request: r, path: rest}
	data, err := c.answer()
	c.record(err)
	if errors.Is(err, errDropped) {
		drop(w)
		return
	}
	if r.Method != http.MethodGet {
		s.changed()
	}
	if err != nil {
		writeError(w, r, asAPIError(err))
		return
	}
	writeData(w, data, c.total)
}

func (c *call) answer() (any, error) {
	s := c.server
	s.mu.Lock()
	c.fault = s.fire(c.request.Method, c.path)
	s.mu.Unlock()
	if f := c.fault; f != nil {
		if err := pause(c.ctx, time.Duration(f.Delay)); err != nil {
			return nil, errDropped
		}
		if f.Drop == "before" {
			return nil, errDropped
		}
		if f.Status != 0 {
			reason := f.Reason
			if reason == "" {
				reason = http.StatusText(f.Status)
			}
			// Who sent it is recorded all the same.
			s.mu.Lock()
			c.user, _ = s.authenticate(c.request.Header.Get("Authorization"))
			s.mu.Unlock()
			return nil, &apiError{status: f.Status, message: reason, fields: f.Errors}
		}
	}
	data, err := c.handle()
	if c.settling != nil {
		timer := time.NewTimer(settle)
		defer timer.Stop()
		select {
		case <-c.settling:
		case <-timer.C:
		case <-c.ctx.Done():
		}
	}
	if c.fault != nil && c.fault.Drop == "after" {
		return nil, errDropped
	}
	return data, err
}

func (c *call) handle() (any, error) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := s.authenticate(c.request.Header.Get("Authorization"))
	if err != nil {
		return nil, err
	}
	c.user = user
	var params map[string]value
	if err := c.unlocked(func() error {
		params, err = readParameters(c.request, isUpload(c.request))
		return err
	}); err != nil {
		return nil, err
	}
	m, uri := s.schema.match(c.request.Method, c.path)
	if m == nil {
		return nil, notImplemented(c.request.Method, c.path)
	}
	c.method = m
	c.given = maps.Clone(params)
	for name, text := range uri {
		if old, ok := params[name]; ok && old.text != text {
			return nil, paramError(name, "duplicate parameter (already defined in URI) with conflicting values!")
		}
		params[name] = value{text: text}
		delete(c.given, name)
	}
	if err := c.permitted(m.Permission, params); err != nil {
		return nil, err
	}
	if node, ok := uri["node"]; ok {
		if c.node, err = s.resolveNode(node); err != nil {
			return nil, err
		}
	}
	if m.path == "/nodes/{node}/storage/{storage}/upload" && isUpload(c.request) {
		defer func() {
			if c.temporary != "" {
				_ = os.Remove(c.temporary)
			}
		}()
		if err := c.unlocked(func() error { return c.readUpload(params) }); err != nil {
			return nil, err
		}
	}
	if c.params, err = s.schema.validate(m, params); err != nil {
		return nil, err
	}
	handle, ok := s.handlers[m.verb+" "+m.path]
	if !ok {
		return nil, notImplemented(c.request.Method, c.path)
	}
	return handle(c)
}

// unlocked runs f without the server's lock.
func (c *call) unlocked(f func() error) error {
	c.server.mu.Unlock()
	defer c.server.mu.Lock()
	return f()
}

func (s *Server) resolveNode(name string) (string, error) {
	if name == "localhost" {
		return s.options.Nodes[0], nil
	}
	if !slices.Contains(s.options.Nodes, name) {
		return "", die("hostname lookup '%s' failed - failed to get address info for: %s: Name or service not known", name, name)
	}
	return name, nil
}

// number returns an integer parameter.
func (c *call) number(name string, otherwise int) int {
	if n, err := strconv.Atoi(c.params[name]); err == nil {
		return n
	}
	return otherwise
}

func (c *call) vmid() int { return c.number("vmid", 0) }

func isUpload(r *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method == http.MethodPost && kind == "multipart/form-data" && strings.HasSuffix(r.URL.Path, "/upload")
}
