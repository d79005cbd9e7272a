package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	timeapi "github.com/siderolabs/talos/pkg/machinery/api/time"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
)

// storageServer implements storage.StorageService.
type storageServer struct {
	storage.UnimplementedStorageServiceServer
	sys *system
}

// Disks implements storage.StorageServiceServer.
func (s *storageServer) Disks(context.Context, *emptypb.Empty) (*storage.DisksResponse, error) {
	list := &storage.Disks{}
	for _, d := range s.sys.disks() {
		spec := d.spec.TypedSpec()
		kind := storage.Disk_HDD
		if spec.CDROM {
			kind = storage.Disk_CD
		}
		list.Disks = append(list.Disks, &storage.Disk{
			DeviceName: filepath.Join("/dev", d.spec.Metadata().ID()), Model: spec.Model, Size: spec.Size, Serial: spec.Serial,
			Wwid: spec.WWID, Uuid: spec.UUID, Type: kind, BusPath: spec.BusPath, SystemDisk: d.system, Subsystem: spec.SubSystem,
			Readonly: spec.Readonly,
		})
	}
	return &storage.DisksResponse{Messages: []*storage.Disks{list}}, nil
}

// timeServer implements time.TimeService: the machine's clock is always right.
type timeServer struct {
	timeapi.UnimplementedTimeServiceServer
	sys *system
}

// Time implements time.TimeServiceServer.
func (t *timeServer) Time(ctx context.Context, _ *emptypb.Empty) (*timeapi.TimeResponse, error) {
	server := constants.DefaultNTPServer
	if cfg := t.sys.config(); cfg != nil {
		if sync := cfg.NetworkTimeSyncConfig(); sync != nil && len(sync.Servers()) > 0 {
			server = sync.Servers()[0]
		}
	}
	return t.TimeCheck(ctx, &timeapi.TimeRequest{Server: server})
}

// TimeCheck implements time.TimeServiceServer.
func (t *timeServer) TimeCheck(_ context.Context, req *timeapi.TimeRequest) (*timeapi.TimeResponse, error) {
	if req.GetServer() == "" {
		return nil, status.Error(codes.InvalidArgument, "ntp server is required")
	}
	now := timestamppb.New(t.sys.rack.options.Now())
	return &timeapi.TimeResponse{Messages: []*timeapi.Time{{Server: req.GetServer(), Localtime: now, Remotetime: now}}}, nil
}

// imageServer implements machine.ImageService.
type imageServer struct {
	machineapi.UnimplementedImageServiceServer
	sys *system
}

// Pull implements machine.ImageServiceServer. Only installers can be pulled.
func (i *imageServer) Pull(req *machineapi.ImageServicePullRequest, stream grpc.ServerStreamingServer[machineapi.ImageServicePullResponse]) error {
	if _, err := i.sys.resolveInstaller(req.GetImageRef()); err != nil {
		return status.Errorf(codes.NotFound, "error pulling image: %s", err)
	}
	return stream.Send(&machineapi.ImageServicePullResponse{Response: &machineapi.ImageServicePullResponse_Name{Name: req.GetImageRef()}})
}

// lifecycleServer implements machine.LifecycleService.
type lifecycleServer struct {
	machineapi.UnimplementedLifecycleServiceServer
	sys *system
}

// Upgrade implements machine.LifecycleServiceServer: it writes the new system, and the client reboots the machine.
func (l *lifecycleServer) Upgrade(req *machineapi.LifecycleServiceUpgradeRequest, stream grpc.ServerStreamingServer[machineapi.LifecycleServiceUpgradeResponse]) error {
	if !l.sys.install.TryLock() {
		return status.Error(codes.FailedPrecondition, "another installation/upgrade is already in progress")
	}
	defer l.sys.install.Unlock()
	if l.sys.systemVolume() == "" {
		return status.Error(codes.FailedPrecondition, "machine is not installed")
	}
	ref := req.GetSource().GetImageName()
	if ref == "" {
		return status.Error(codes.InvalidArgument, "installer image name is required")
	}
	image, err := l.sys.resolveInstaller(ref)
	if err != nil {
		return status.Error(codes.Internal, fmt.Sprintf("upgrade failed: %v", err))
	}
	send := func(p *machineapi.LifecycleServiceInstallProgress) error {
		return stream.Send(&machineapi.LifecycleServiceUpgradeResponse{Progress: p})
	}
	if err := send(&machineapi.LifecycleServiceInstallProgress{
		Response: &machineapi.LifecycleServiceInstallProgress_Message{Message: "running Talos installer " + image.Version},
	}); err != nil {
		return err
	}
	select {
	case <-time.After(l.sys.rack.options.Timing.Install):
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-l.sys.ctx.Done():
		return status.Error(codes.Unavailable, "the machine is going down")
	}
	l.sys.writeUpgrade(image, ref)
	return send(&machineapi.LifecycleServiceInstallProgress{Response: &machineapi.LifecycleServiceInstallProgress_ExitCode{}})
}

// clusterServer implements cluster.ClusterService.
type clusterServer struct {
	cluster.UnimplementedClusterServiceServer
	sys *system
}

// HealthCheck implements cluster.ClusterServiceServer. It checks the machines itself and leaves Kubernetes to the hook.
func (c *clusterServer) HealthCheck(req *cluster.HealthCheckRequest, stream cluster.ClusterService_HealthCheckServer) error {
	if err := c.sys.requireControlPlane("cluster health check"); err != nil {
		return err
	}
	ctx := stream.Context()
	if req.GetWaitTimeout() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.GetWaitTimeout().AsDuration())
		defer cancel()
	}
	say := func(format string, args ...any) error {
		return stream.Send(&cluster.HealthCheckProgress{Message: fmt.Sprintf(format, args...)})
	}
	wanted := slices.Concat(req.GetClusterInfo().GetControlPlaneNodes(), req.GetClusterInfo().GetWorkerNodes())
	if err := say("discovered nodes: %q", c.nodes(wanted)); err != nil {
		return err
	}
	for _, check := range []struct {
		name string
		test func(peerView) error
	}{
		{"etcd to be healthy", etcdHealthy},
		{"apid to be ready", func(p peerView) error { return unless(p.sys.front.running(), "apid is not ready") }},
		{"all nodes to finish boot sequence", func(p peerView) error { return unless(p.ready, "still booting") }},
	} {
		if err := c.await(ctx, check.name, wanted, check.test, say); err != nil {
			return err
		}
	}
	hook := c.sys.rack.options.CheckKubernetes
	if hook == nil {
		return status.Error(codes.Unimplemented, "the machines are healthy; the Kubernetes part of the health check is not simulated")
	}
	if err := say("waiting for all k8s nodes to report"); err != nil {
		return err
	}
	return hook(ctx, c.sys.node())
}

func unless(ok bool, problem string) error {
	if ok {
		return nil
	}
	return errors.New(problem)
}

func etcdHealthy(p peerView) error {
	if !p.controlPlane {
		return nil
	}
	p.sys.mu.Lock()
	defer p.sys.mu.Unlock()
	return unless(p.sys.etcdUp, "etcd is not running")
}

// nodes lists the addresses to check: the wanted ones, or all of the cluster.
func (c *clusterServer) nodes(wanted []string) []string {
	if len(wanted) > 0 {
		return wanted
	}
	var list []string
	for _, p := range c.peers() {
		list = append(list, p.sys.primary().String())
	}
	return list
}

func (c *clusterServer) peers() []peerView {
	cfg := c.sys.completeConfig()
	if cfg == nil {
		return nil
	}
	return slices.DeleteFunc(c.sys.rack.peers(), func(p peerView) bool { return p.key != clusterKey(cfg) })
}

// await polls a check until it passes on all nodes or ctx ends.
func (c *clusterServer) await(ctx context.Context, name string, wanted []string, test func(peerView) error, say func(string, ...any) error) error {
	last := ""
	t := time.NewTicker(retryInterval)
	defer t.Stop()
	for {
		err := c.check(wanted, test)
		text := "OK"
		if err != nil {
			text = err.Error()
		}
		if text != last {
			if sayErr := say("waiting for %s: %s", name, text); sayErr != nil {
				return sayErr
			}
			last = text
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-c.sys.ctx.Done():
			return status.Error(codes.Unavailable, "the machine is going down")
		case <-t.C:
		}
	}
}

func (c *clusterServer) check(wanted []string, test func(peerView) error) error {
	peers := c.peers()
	for _, node := range c.nodes(wanted) {
		i := slices.IndexFunc(peers, func(p peerView) bool {
			own, _ := p.sys.addresses()
			return slices.ContainsFunc(own, func(a netip.Prefix) bool { return a.Addr().String() == node })
		})
		if i < 0 {
			return fmt.Errorf("%s: no answer", node)
		}
		if err := test(peers[i]); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	return nil
}
