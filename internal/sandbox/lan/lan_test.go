package lan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const there = "192.0.2.11:50000"

func start(t *testing.T) *LAN {
	t.Helper()
	l, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serve answers every connection at an address with handle.
func serve(t *testing.T, l *LAN, hostport string, handle func(net.Conn)) net.Listener {
	t.Helper()
	listener, err := l.Listen(hostport)
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer conn.Close() //nolint:errcheck // the test looks at the other end
				handle(conn)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); handlers.Wait() })
	return listener
}

// connect passes the proxy as its clients do.
func connect(t *testing.T, l *LAN, hostport string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(l.ProxyURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", hostport, hostport)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return conn, reader, response
}

func TestProxy(t *testing.T) {
	l := start(t)
	serve(t, l, there, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	conn, reader, response := connect(t, l, there)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %s", response.Status)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

// TestHalfClose: the answer to a request that ends by closing one direction still arrives, as over TCP.
func TestHalfClose(t *testing.T) {
	l := start(t)
	serve(t, l, there, func(conn net.Conn) {
		request, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "got %d bytes", len(request))
	})
	conn, reader, _ := connect(t, l, there)
	fmt.Fprint(conn, strings.Repeat("x", 100_000))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(reader); err != nil || string(answer) != "got 100000 bytes" {
		t.Errorf("read %q, %v", answer, err)
	}
}

// TestEarlyBytes: what a client sends together with CONNECT is not lost.
func TestEarlyBytes(t *testing.T) {
	l := start(t)
	serve(t, l, there, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(l.ProxyURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test ends
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nearly\n", there, there)
	reader := bufio.NewReader(conn)
	if _, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect}); err != nil {
		t.Fatal(err)
	}
	if line, err := reader.ReadString('\n'); err != nil || line != "early\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

func TestNobodyThere(t *testing.T) {
	l := start(t)
	_, _, response := connect(t, l, "192.0.2.77:50000")
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %s", response.Status)
	}
	body := make([]byte, 100)
	n, _ := io.ReadFull(response.Body, body)
	if !strings.Contains(string(body[:n]), "connection refused") {
		t.Errorf("answer %q", body[:n])
	}
	if _, err := l.DialContext(t.Context(), "tcp", "192.0.2.77:50000"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
	// Not even an address that exists outside of the simulation.
	real, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close() //nolint:errcheck // the test ends
	if _, err := l.DialContext(t.Context(), "tcp", real.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of a real address: %v", err)
	}
}

func TestListen(t *testing.T) {
	l := start(t)
	first, err := l.Listen(there)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Listen(there); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(fmt.Sprint(err), there) {
		t.Errorf("the same address again: %v", err)
	}
	if _, err := l.Listen("192.0.2.11"); err == nil {
		t.Error("an address without a port")
	}
	if hosts := l.Hosts(); !slices.Equal(hosts, []string{there}) {
		t.Errorf("hosts %v", hosts)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.DialContext(t.Context(), "tcp", there); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after close: %v", err)
	}
	second, err := l.Listen(there)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close() //nolint:errcheck // the test ends
	// Closing the first once more does not take the address from its new owner.
	_ = first.Close()
	if hosts := l.Hosts(); !slices.Equal(hosts, []string{there}) {
		t.Errorf("hosts %v", hosts)
	}
}

func TestOnlyConnect(t *testing.T) {
	l := start(t)
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions} {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://192.0.2.11/", nil)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := url.Parse(l.ProxyURL())
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, response.Status)
		}
	}
}

func TestCloseEndsConnections(t *testing.T) {
	l := start(t)
	ended := make(chan struct{})
	serve(t, l, there, func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		close(ended)
	})
	_, reader, _ := connect(t, l, there)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.ReadByte(); err == nil {
		t.Error("the client's side is still open")
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the server's side is still open")
	}
	if _, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(l.ProxyURL(), "http://")); err == nil {
		t.Error("the proxy still listens")
	}
}

func TestStartOn(t *testing.T) {
	l := start(t)
	address := strings.TrimPrefix(l.ProxyURL(), "http://")
	if _, err := StartOn(t.Context(), address); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("a port in use: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := StartOn(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close() //nolint:errcheck // the test ends
	if again.ProxyURL() != l.ProxyURL() {
		t.Errorf("proxy at %s, want %s", again.ProxyURL(), l.ProxyURL())
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	l := start(t)
	var users sync.WaitGroup
	for i := range 8 {
		users.Go(func() {
			address := fmt.Sprintf("192.0.2.%d:50000", 11+i)
			for range 10 {
				listener, err := l.Listen(address)
				if err != nil {
					t.Error(err)
					return
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					if conn, err := listener.Accept(); err == nil {
						_ = conn.Close()
					}
				}()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if conn, err := l.DialContext(ctx, "tcp", address); err != nil {
					t.Error(err)
				} else {
					_ = conn.Close()
				}
				cancel()
				<-done
				_ = l.Hosts()
				_ = listener.Close()
			}
		})
	}
	users.Wait()
}
