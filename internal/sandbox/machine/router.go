package machine

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/siderolabs/grpc-proxy/proxy"
	"github.com/siderolabs/talos/pkg/machinery/api/common"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// router sends a call to this machine or, by the metadata node and nodes, to others of its cluster.
type router struct {
	front *front
	local *grpc.ClientConn
	skip  bool
}

func (r *router) direct(ctx context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
	here := []proxy.Backend{localBackend{r.local}}
	md, _ := metadata.FromIncomingContext(ctx)
	if r.skip || len(md["proxyfrom"]) > 0 {
		return proxy.One2One, here, nil
	}
	node, nodes := md["node"], md["nodes"]
	if len(node) > 1 {
		return proxy.One2One, nil, status.Error(codes.InvalidArgument, "node metadata must be single-valued")
	}
	if !r.forwards() {
		// A worker cannot call others, but may be named itself.
		if len(node) == 1 && r.isLocal(node[0]) {
			node = nil
		}
		if len(nodes) == 1 && r.isLocal(nodes[0]) {
			nodes = nil
		}
	}
	switch {
	case len(nodes) > 0:
		if !aggregates(method) {
			return proxy.One2One, nil, status.Errorf(codes.InvalidArgument, "one-2-many proxying is not supported for method %s", method)
		}
		backends, err := r.remotes(nodes)
		return proxy.One2Many, backends, err
	case len(node) > 0:
		backends, err := r.remotes(node)
		return proxy.One2One, backends, err
	default:
		return proxy.One2One, here, nil
	}
}

func aggregates(method string) bool {
	for _, service := range []string{"machine.MachineService", "cluster.ClusterService", "inspect.InspectService", "storage.StorageService", "time.TimeService"} {
		if strings.HasPrefix(method, "/"+service+"/") {
			return true
		}
	}
	return false
}

// streamed tells apart the methods that stream their answer.
func streamed(method string) bool {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case "machine.MachineService":
		switch name {
		case "Copy", "DiskUsage", "Dmesg", "EtcdSnapshot", "Events", "ImageList", "Kubeconfig", "List", "DebugContainer", "Logs", "PacketCapture", "Read":
			return true
		}
	case "machine.LifecycleService":
		return name == "Install" || name == "Upgrade"
	case "cluster.ClusterService":
		return name == "HealthCheck"
	}
	return strings.HasSuffix(method, "Stream")
}

// forwards is true for control planes: they hold a client certificate.
func (r *router) forwards() bool {
	r.front.mu.Lock()
	defer r.front.mu.Unlock()
	return r.front.identity != nil && r.front.identity.client != nil
}

func (r *router) isLocal(target string) bool {
	addr, err := netip.ParseAddr(target)
	if err != nil {
		return target == r.front.sys.hostname()
	}
	own, held := r.front.sys.addresses()
	for _, p := range own {
		if p.Addr() == addr {
			return true
		}
	}
	for _, v := range held {
		if v == addr {
			return true
		}
	}
	return addr.IsLoopback()
}

func (r *router) remotes(targets []string) ([]proxy.Backend, error) {
	if !r.forwards() {
		return nil, status.Error(codes.PermissionDenied, "no request forwarding")
	}
	backends := make([]proxy.Backend, 0, len(targets))
	for _, t := range targets {
		if _, _, err := net.SplitHostPort(t); t == "" || err == nil {
			return nil, status.Error(codes.Internal, fmt.Sprintf("invalid target %q", t))
		}
		backends = append(backends, remoteBackend{r.front, t})
	}
	return backends, nil
}

func proxyCallOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(constants.GRPCMaxMessageSize), grpc.ForceCodecV2(proxy.Codec())}
}

// outgoing forwards the metadata with the caller's roles.
func outgoing(ctx context.Context) (context.Context, metadata.MD) {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Set(constants.APIAuthzRoleMetadataKey, rolesOf(ctx).Strings()...)
	return ctx, md
}

// localBackend is this machine.
type localBackend struct{ conn *grpc.ClientConn }

func (localBackend) String() string { return "machined" }

func (b localBackend) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	ctx, md := outgoing(ctx)
	delete(md, ":authority")
	return metadata.NewOutgoingContext(ctx, md), b.conn, nil
}

func (localBackend) AppendInfo(_ bool, resp []byte) ([]byte, error) { return resp, nil }

func (localBackend) BuildError(bool, error) ([]byte, error) { return nil, nil }

// remoteBackend is another machine's front server.
type remoteBackend struct {
	front  *front
	target string
}

func (b remoteBackend) String() string { return b.target }

func (b remoteBackend) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	ctx, md := outgoing(ctx)
	from := md[":authority"]
	if len(from) == 0 {
		from = []string{"unknown"}
	}
	md.Set("proxyfrom", from...)
	for _, key := range []string{":authority", "node", "nodes"} {
		delete(md, key)
	}
	conn, err := b.front.remote(b.target)
	return metadata.NewOutgoingContext(ctx, md), conn, err
}

func (f *front) remote(target string) (*grpc.ClientConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if conn := f.remotes[target]; conn != nil {
		return conn, nil
	}
	if f.identity == nil || f.identity.client == nil {
		return nil, status.Error(codes.PermissionDenied, "no request forwarding")
	}
	hostport := net.JoinHostPort(target, strconv.Itoa(constants.ApidPort))
	conn, err := grpc.NewClient("passthrough:///"+hostport,
		grpc.WithTransportCredentials(credentials.NewTLS(f.identity.client)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return f.sys.rack.options.LAN.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(proxyCallOptions()...),
	)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", target, err)
	}
	f.remotes[target] = conn
	return conn, nil
}

// AppendInfo adds the machine's address to its answer. Every answer has its metadata in field 1 of a message, and every
// unary answer is a list of messages in field 1; appending a field of that number to the encoded message sets it.
func (b remoteBackend) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	info, err := proto.Marshal(&common.Empty{Metadata: &common.Metadata{Hostname: b.target}})
	if err != nil {
		return nil, err
	}
	if streaming {
		return append(resp, info...), nil
	}
	number, kind, n := protowire.ConsumeTag(resp)
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	if number != 1 || kind != protowire.BytesType {
		return nil, fmt.Errorf("machine %s: the answer is no list of messages", b.target)
	}
	message, m := protowire.ConsumeBytes(resp[n:])
	if m < 0 {
		return nil, protowire.ParseError(m)
	}
	out := protowire.AppendTag(nil, 1, protowire.BytesType)
	out = protowire.AppendBytes(out, append(append([]byte{}, message...), info...))
	return append(out, resp[n+m:]...), nil
}

// BuildError turns a machine's failure into its part of the joint answer.
func (b remoteBackend) BuildError(streaming bool, err error) ([]byte, error) {
	failed := &common.Empty{Metadata: &common.Metadata{
		Hostname: b.target, Error: err.Error(), Status: status.Convert(err).Proto(),
	}}
	if streaming {
		return proto.Marshal(failed)
	}
	return proto.Marshal(&common.EmptyResponse{Messages: []*common.Empty{failed}})
}
