// Package lan is the simulated local network of the sandbox: fictional addresses such as 192.0.2.11:50000 that exist only
// behind an HTTP CONNECT proxy on loopback.
//
// Every client the sandbox is driven by (the provider plugins, talosctl, kubectl, curl) honours HTTPS_PROXY, so programs,
// machine configs and kubeconfigs carry the addresses they would carry on hardware and need no root, no network namespace
// and no port mapping. Only CONNECT is simulated: there is no ICMP, no UDP, no ARP and no plain HTTP forwarding.
package lan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// LAN is a running network. Its methods are safe for concurrent use.
type LAN struct {
	proxy  net.Listener
	server *http.Server

	mu     sync.Mutex
	hosts  map[string]*listener
	conns  map[net.Conn]struct{}
	closed bool
}

// Start opens the proxy on a free loopback port. ctx bounds only the start.
func Start(ctx context.Context) (*LAN, error) {
	return StartOn(ctx, "127.0.0.1:0")
}

// StartOn is Start on a given loopback address, for a sandbox that keeps its proxy's port over a restart.
func StartOn(ctx context.Context, address string) (*LAN, error) {
	var lc net.ListenConfig
	proxy, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("simulated network: listen on %s: %w", address, err)
	}
	l := &LAN{proxy: proxy, hosts: map[string]*listener{}, conns: map[net.Conn]struct{}{}}
	l.server = &http.Server{Handler: http.HandlerFunc(l.serve), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = l.server.Serve(proxy) }()
	return l, nil
}

// ProxyURL is the value for HTTPS_PROXY.
func (l *LAN) ProxyURL() string { return "http://" + l.proxy.Addr().String() }

// Listen claims a fictional host:port. The listener accepts on loopback; closing it frees the address.
func (l *LAN) Listen(hostport string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(hostport); err != nil {
		return nil, fmt.Errorf("simulated network: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.hosts[hostport]; taken {
		return nil, fmt.Errorf("simulated network: listen %s: %w", hostport, syscall.EADDRINUSE)
	}
	real, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("simulated network: listen %s: %w", hostport, err)
	}
	ln := &listener{Listener: real, lan: l, name: hostport}
	l.hosts[hostport] = ln
	return ln, nil
}

// DialContext connects to a fictional address; nobody there means syscall.ECONNREFUSED. It never leaves loopback.
func (l *LAN) DialContext(ctx context.Context, network, hostport string) (net.Conn, error) {
	l.mu.Lock()
	ln, ok := l.hosts[hostport]
	l.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", hostport, syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", ln.Listener.Addr().String())
}

// Hosts lists the addresses in use.
func (l *LAN) Hosts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.hosts))
	for name := range l.hosts {
		names = append(names, name)
	}
	return names
}

// Close ends the proxy and every connection through it. Listeners stay their owners' to close.
func (l *LAN) Close() error {
	err := l.server.Close()
	// A server that has not begun to serve yet does not close its listener, and the port may be wanted again at once.
	_ = l.proxy.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close()
	}
	return err
}

func (l *LAN) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "the sandbox's network only carries CONNECT", http.StatusMethodNotAllowed)
		return
	}
	upstream, err := l.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		status := http.StatusBadGateway
		if errors.Is(err, syscall.ECONNREFUSED) {
			status = http.StatusServiceUnavailable
		}
		http.Error(w, err.Error(), status)
		return
	}
	client, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = upstream.Close()
		return
	}
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		_ = upstream.Close()
		_ = client.Close()
		return
	}
	l.splice(client, rw.Reader, upstream)
}

func (l *LAN) splice(client net.Conn, buffered io.Reader, upstream net.Conn) {
	l.mu.Lock()
	l.conns[client], l.conns[upstream] = struct{}{}, struct{}{}
	if l.closed {
		_, _ = client.Close(), upstream.Close()
	}
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { pipe(upstream, buffered) })
	wg.Go(func() { pipe(client, upstream) })
	wg.Wait()
	_ = client.Close()
	_ = upstream.Close()
	l.mu.Lock()
	delete(l.conns, client)
	delete(l.conns, upstream)
	l.mu.Unlock()
}

// pipe copies one direction and half-closes it, so that the other direction can still drain.
func pipe(to net.Conn, from io.Reader) {
	_, _ = io.Copy(to, from)
	if c, ok := to.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

type listener struct {
	net.Listener
	lan  *LAN
	name string
	once sync.Once
}

func (ln *listener) Close() error {
	ln.once.Do(func() {
		ln.lan.mu.Lock()
		delete(ln.lan.hosts, ln.name)
		ln.lan.mu.Unlock()
	})
	return ln.Listener.Close()
}
