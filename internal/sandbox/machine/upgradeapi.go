package machine

import (
	"fmt"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
