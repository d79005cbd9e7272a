package machine

import (
	"context"
	"net"

	cosi "github.com/cosi-project/runtime/api/v1alpha1"
	"github.com/cosi-project/runtime/pkg/state"
	cosiserver "github.com/cosi-project/runtime/pkg/state/protobuf/server"
	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	"github.com/siderolabs/talos/pkg/machinery/api/inspect"
	"github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	timeapi "github.com/siderolabs/talos/pkg/machinery/api/time"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// back is the server that answers (machined). It listens in memory; only the front server reaches it.
type back struct {
	server *grpc.Server
	pipe   *bufconn.Listener
	done   chan struct{}
}

const pipeSize = 1 << 18

func newBack(s *system) *back {
	b := &back{
		server: grpc.NewServer(
			grpc.MaxRecvMsgSize(constants.GRPCMaxMessageSize),
			grpc.UnaryInterceptor(authorizeUnary), grpc.StreamInterceptor(authorizeStream),
		),
		pipe: bufconn.Listen(pipeSize), done: make(chan struct{}),
	}
	resources := state.WrapCore(state.Filter(s.state, accessPolicy(s.state)))
	machine.RegisterMachineServiceServer(b.server, &machineServer{sys: s})
	machine.RegisterImageServiceServer(b.server, &imageServer{sys: s})
	machine.RegisterLifecycleServiceServer(b.server, &lifecycleServer{sys: s})
	machine.RegisterDebugServiceServer(b.server, machine.UnimplementedDebugServiceServer{})
	cluster.RegisterClusterServiceServer(b.server, &clusterServer{sys: s})
	inspect.RegisterInspectServiceServer(b.server, inspect.UnimplementedInspectServiceServer{})
	storage.RegisterStorageServiceServer(b.server, &storageServer{sys: s})
	timeapi.RegisterTimeServiceServer(b.server, &timeServer{sys: s})
	cosi.RegisterStateServer(b.server, cosiserver.NewState(resources))
	go func() {
		defer close(b.done)
		_ = b.server.Serve(b.pipe)
	}()
	return b
}

// dial makes a connection for the front server.
func (b *back) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:machined",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.pipe.DialContext(ctx) }),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(proxyCallOptions()...),
	)
}

func (b *back) close() {
	b.server.Stop()
	<-b.done
}
