package machine

import (
	"context"
	"path/filepath"

	"github.com/siderolabs/talos/pkg/machinery/api/storage"
	timeapi "github.com/siderolabs/talos/pkg/machinery/api/time"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
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
