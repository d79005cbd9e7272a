package machine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/grpc-proxy/proxy"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// front is the server that clients reach (apid): TLS on port 50000 of every address, roles, routing, faults.
type front struct {
	sys *system

	mu          sync.Mutex
	closed      bool
	server      *grpc.Server
	serving     *sync.WaitGroup
	local       *grpc.ClientConn
	remotes     map[string]*grpc.ClientConn
	maintenance bool
	issuer      *x509.PEMEncodedCertificateAndKey
	identity    *identity
	listeners   map[netip.Addr]*trackedListener
	blocked     map[netip.Addr]bool
}

// gracePeriod bounds how long calls may finish when the server stops.
const gracePeriod = 250 * time.Millisecond

func newFront(s *system) *front {
	return &front{
		sys: s, remotes: map[string]*grpc.ClientConn{}, listeners: map[netip.Addr]*trackedListener{}, blocked: map[netip.Addr]bool{},
	}
}

// openAPI starts the authenticated API. signer is the control plane's CA for a worker; a control plane has its own.
// Without a CA that can sign nothing happens, as in Talos until a control plane answers.
func (s *system) openAPI(signer *x509.PEMEncodedCertificateAndKey) error {
	cfg := s.completeConfig()
	if cfg == nil {
		return nil
	}
	if own := cfg.Machine().Security().IssuingCA(); own != nil && len(own.Key) > 0 {
		signer = own
	}
	if signer == nil {
		return nil
	}
	return s.front.start(false, signer)
}

// running reports whether the authenticated API is up.
func (f *front) running() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server != nil && !f.maintenance
}

// start makes a server, or renews the certificate of the one that runs in the same mode.
func (f *front) start(maintenance bool, issuer *x509.PEMEncodedCertificateAndKey) error {
	id, err := f.sys.identity(maintenance, issuer)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	stale := f.server != nil && f.maintenance != maintenance
	f.mu.Unlock()
	if stale {
		f.stop()
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	if f.server == nil || !f.identity.same(id) {
		f.identity = id
		f.dropRemotes()
	}
	f.issuer, f.maintenance = issuer, maintenance
	if f.server == nil {
		if err := f.build(); err != nil {
			f.mu.Unlock()
			return err
		}
	}
	f.mu.Unlock()
	f.listen()
	return nil
}

// build makes the gRPC server. f.mu is held.
func (f *front) build() error {
	local, err := f.sys.back.dial()
	if err != nil {
		return fmt.Errorf("reach machined: %w", err)
	}
	f.local = local
	router := &router{front: f, local: local, skip: f.maintenance}
	f.serving = &sync.WaitGroup{}
	f.server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.tlsConfig() },
		})),
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(router.direct, proxy.WithStreamedDetector(streamed))),
		grpc.MaxRecvMsgSize(constants.GRPCMaxMessageSize),
		grpc.StreamInterceptor(f.intercept),
	)
	return nil
}

func (f *front) tlsConfig() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.identity == nil {
		return nil, errors.New("no certificate")
	}
	return f.identity.server, nil
}

// listen claims port 50000 on every address of the machine and gives up those that it has lost.
func (f *front) listen() {
	own, held := f.sys.addresses()
	wanted := map[netip.Addr]bool{}
	for _, p := range own {
		wanted[p.Addr()] = true
	}
	for _, v := range held {
		wanted[v] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil || f.closed {
		return
	}
	f.renew(wanted)
	for addr, l := range f.listeners {
		if !wanted[addr] {
			_ = l.Close()
			delete(f.listeners, addr)
			f.sys.dropLater(l)
		}
	}
	for addr := range wanted {
		if f.listeners[addr] != nil {
			continue
		}
		hostport := net.JoinHostPort(addr.String(), strconv.Itoa(constants.ApidPort))
		l, err := f.sys.rack.options.LAN.Listen(hostport)
		if err != nil {
			if !f.blocked[addr] {
				f.sys.guest.printf("apid: %v", err)
			}
			f.blocked[addr] = true
			continue
		}
		delete(f.blocked, addr)
		tracked := &trackedListener{Listener: l, conns: map[string]net.Conn{}}
		f.listeners[addr] = tracked
		server := f.server
		f.serving.Go(func() { _ = server.Serve(tracked) })
	}
	for addr := range f.blocked {
		if !wanted[addr] {
			delete(f.blocked, addr)
		}
	}
}

// dropLater breaks the connections to a lost address once running calls had a moment to finish.
func (s *system) dropLater(l *trackedListener) {
	s.tasks.Go(func() {
		t := time.NewTimer(gracePeriod)
		defer t.Stop()
		select {
		case <-t.C:
			l.drop("")
		case <-s.ctx.Done():
		}
	})
}

// pending reports whether an address is taken by someone else, so that listening has to be tried again.
func (f *front) pending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server != nil && len(f.blocked) > 0
}

// renew makes a new certificate when an address is not in the current one. f.mu is held.
func (f *front) renew(wanted map[netip.Addr]bool) {
	for addr := range wanted {
		if f.identity.covers(addr) {
			continue
		}
		id, err := f.sys.identity(f.maintenance, f.issuer)
		if err != nil {
			f.sys.guest.printf("apid: %v", err)
			return
		}
		f.identity = id
		return
	}
}

// stop ends the server: running calls get a moment to finish.
func (f *front) stop() {
	f.mu.Lock()
	server, serving, local := f.server, f.serving, f.local
	f.server, f.serving, f.local = nil, nil, nil
	f.listeners = map[netip.Addr]*trackedListener{}
	f.dropRemotes()
	f.mu.Unlock()
	if server == nil {
		return
	}
	t := time.AfterFunc(gracePeriod, server.Stop)
	server.GracefulStop()
	t.Stop()
	serving.Wait()
	_ = local.Close()
}

// close ends the server at once and for good.
func (f *front) close() {
	f.mu.Lock()
	f.closed = true
	if f.server != nil {
		f.server.Stop()
	}
	f.mu.Unlock()
	f.stop()
}

// dropRemotes forgets connections to other machines and closes them once running calls had a moment to finish: among them
// may be the one that brought the new certificate. f.mu is held.
func (f *front) dropRemotes() {
	for target, conn := range f.remotes {
		delete(f.remotes, target)
		f.sys.tasks.Go(func() {
			t := time.NewTimer(gracePeriod)
			defer t.Stop()
			select {
			case <-t.C:
			case <-f.sys.ctx.Done():
			}
			_ = conn.Close()
		})
	}
}

// intercept applies faults and finds the caller's roles.
func (f *front) intercept(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	err := f.sys.rack.disturb(ctx, f.sys.guest.hw.VMID, info.FullMethod)
	if errors.Is(err, errDropped) {
		f.dropCaller(ctx)
		return status.Error(codes.Unavailable, "connection dropped")
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	maintenance := f.maintenance
	f.mu.Unlock()
	roles := role.MakeSet(role.Reader)
	if !maintenance {
		roles = certificateRoles(ctx)
	}
	return handler(srv, contextStream{stream, withRoles(ctx, roles)})
}

func (f *front) dropCaller(ctx context.Context) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.listeners {
		l.drop(p.Addr.String())
	}
}

// trackedListener remembers its connections, so that faults and lost addresses can break them.
type trackedListener struct {
	net.Listener
	mu    sync.Mutex
	conns map[string]net.Conn
}

func (l *trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: c, forget: func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, c.RemoteAddr().String())
	}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c.RemoteAddr().String()] = c
	return tracked, nil
}

// drop closes the connection of one peer, or all of them when remote is empty.
func (l *trackedListener) drop(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, c := range l.conns {
		if remote == "" || addr == remote {
			_ = c.Close()
		}
	}
}

type trackedConn struct {
	net.Conn
	forget func()
}

func (c *trackedConn) Close() error {
	c.forget()
	return c.Conn.Close()
}
