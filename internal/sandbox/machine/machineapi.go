package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/api/common"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// machineServer implements machine.MachineService. Methods that are not here answer Unimplemented.
type machineServer struct {
	machineapi.UnimplementedMachineServiceServer
	sys *system
}

// requireControlPlane refuses calls that need a control plane.
func (s *system) requireControlPlane(api string) error {
	cfg := s.config()
	if cfg == nil || cfg.Machine() == nil {
		return status.Errorf(codes.Unimplemented, "machine type is not set, cannot use %s API", api)
	}
	if !cfg.Machine().Type().IsControlPlane() {
		return status.Errorf(codes.Unimplemented, "%s is only available on control plane nodes", api)
	}
	return nil
}

// Version implements machine.MachineServiceServer.
func (m *machineServer) Version(context.Context, *emptypb.Empty) (*machineapi.VersionResponse, error) {
	info := version.NewVersion()
	if info.Tag != m.sys.medium.image.Version {
		info.Tag, info.Sha, info.Built = m.sys.medium.image.Version, "", ""
	}
	info.Os, info.Arch = "linux", "amd64"
	v := &machineapi.Version{
		Version:  info,
		Platform: &machineapi.PlatformInfo{Name: constants.PlatformMetal, Mode: metal{}.String()},
	}
	if cfg := m.sys.config(); cfg != nil && cfg.Machine() != nil {
		v.Features = &machineapi.FeaturesInfo{Rbac: true}
	}
	return &machineapi.VersionResponse{Messages: []*machineapi.Version{v}}, nil
}

// Hostname implements machine.MachineServiceServer.
func (m *machineServer) Hostname(context.Context, *emptypb.Empty) (*machineapi.HostnameResponse, error) {
	return &machineapi.HostnameResponse{Messages: []*machineapi.Hostname{{Hostname: m.sys.hostname()}}}, nil
}

// reservedKiB is what firmware and kernel take from a machine's memory.
const reservedKiB = 96 << 10

// Memory implements machine.MachineServiceServer.
func (m *machineServer) Memory(context.Context, *emptypb.Empty) (*machineapi.MemoryResponse, error) {
	total := uint64(max(m.sys.guest.hw.Memory<<10-reservedKiB, 0))
	return &machineapi.MemoryResponse{Messages: []*machineapi.Memory{{
		Meminfo: &machineapi.MemInfo{Memtotal: total, Memfree: total / 2, Memavailable: total / 2},
	}}}, nil
}

// LoadAvg implements machine.MachineServiceServer.
func (m *machineServer) LoadAvg(context.Context, *emptypb.Empty) (*machineapi.LoadAvgResponse, error) {
	return &machineapi.LoadAvgResponse{Messages: []*machineapi.LoadAvg{{}}}, nil
}

// SystemStat implements machine.MachineServiceServer: only the boot time is real.
func (m *machineServer) SystemStat(context.Context, *emptypb.Empty) (*machineapi.SystemStatResponse, error) {
	stat := &machineapi.SystemStat{
		BootTime: uint64(m.sys.started.Unix()), CpuTotal: &machineapi.CPUStat{}, SoftIrq: &machineapi.SoftIRQStat{},
	}
	return &machineapi.SystemStatResponse{Messages: []*machineapi.SystemStat{stat}}, nil
}

// CPUInfo implements machine.MachineServiceServer.
func (m *machineServer) CPUInfo(context.Context, *emptypb.Empty) (*machineapi.CPUInfoResponse, error) {
	infos := &machineapi.CPUsInfo{}
	for i := range m.sys.guest.hw.Cores {
		infos.CpuInfo = append(infos.CpuInfo, &machineapi.CPUInfo{Processor: uint32(i), ModelName: cpuModel(m.sys.guest.hw.CPU), CpuCores: uint32(m.sys.guest.hw.Cores)})
	}
	return &machineapi.CPUInfoResponse{Messages: []*machineapi.CPUsInfo{infos}}, nil
}

// bootIDPath is the file by which clients notice a reboot.
const bootIDPath = "/proc/sys/kernel/random/boot_id"

// Read implements machine.MachineServiceServer. The boot ID is the only file.
func (m *machineServer) Read(req *machineapi.ReadRequest, stream machineapi.MachineService_ReadServer) error {
	if req.GetPath() != bootIDPath {
		return status.Errorf(codes.NotFound, "stat %s: no such file or directory", req.GetPath())
	}
	return stream.Send(&common.Data{Bytes: []byte(m.sys.bootID + "\n")})
}

// Logs implements machine.MachineServiceServer. Every service shares the machine's console.
func (m *machineServer) Logs(req *machineapi.LogsRequest, stream machineapi.MachineService_LogsServer) error {
	if req.GetNamespace() != constants.SystemContainerdNamespace && req.GetId() != "kubelet" {
		return status.Error(codes.Unimplemented, "logs of containers are not simulated")
	}
	known := false
	for _, svc := range m.sys.serviceSet() {
		known = known || svc.id == req.GetId()
	}
	if !known {
		return status.Errorf(codes.Unknown, "log %q was not registered", req.GetId())
	}
	lines := m.sys.guest.log.lines()
	if n := int(req.GetTailLines()); n >= 0 && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	return m.follow(lines, req.GetFollow(), stream)
}

// Dmesg implements machine.MachineServiceServer.
func (m *machineServer) Dmesg(req *machineapi.DmesgRequest, stream machineapi.MachineService_DmesgServer) error {
	var lines []string
	if !req.GetTail() {
		lines = m.sys.guest.log.lines()
	}
	return m.follow(lines, req.GetFollow(), stream)
}

// follow sends lines and, if asked to, those to come until the machine or the client leaves.
func (m *machineServer) follow(lines []string, on bool, stream interface {
	Send(*common.Data) error
	Context() context.Context
},
) error {
	for _, line := range lines {
		if err := stream.Send(&common.Data{Bytes: []byte(line + "\n")}); err != nil {
			return err
		}
	}
	last := ""
	if all := m.sys.guest.log.lines(); len(all) > 0 {
		last = all[len(all)-1]
	}
	t := time.NewTicker(retryInterval)
	defer t.Stop()
	for on {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-m.sys.ctx.Done():
			return nil
		case <-t.C:
		}
		all := m.sys.guest.log.lines()
		next := len(all)
		for next > 0 && all[next-1] != last {
			next--
		}
		for _, line := range all[next:] {
			last = line
			if err := stream.Send(&common.Data{Bytes: []byte(line + "\n")}); err != nil {
				return err
			}
		}
	}
	return nil
}

// LogsContainers implements machine.MachineServiceServer.
func (m *machineServer) LogsContainers(context.Context, *emptypb.Empty) (*machineapi.LogsContainersResponse, error) {
	list := &machineapi.LogsContainer{}
	for _, svc := range m.sys.serviceSet() {
		list.Ids = append(list.Ids, svc.id)
	}
	return &machineapi.LogsContainersResponse{Messages: []*machineapi.LogsContainer{list}}, nil
}

// bootstrapPatience is how long Bootstrap waits for the container runtime, as in Talos.
const bootstrapPatience = time.Second

// Bootstrap implements machine.MachineServiceServer.
func (m *machineServer) Bootstrap(ctx context.Context, req *machineapi.BootstrapRequest) (*machineapi.BootstrapResponse, error) {
	s := m.sys
	s.guest.printf("bootstrap request received")
	if !s.waitForCRI(ctx, bootstrapPatience) {
		return nil, status.Error(codes.FailedPrecondition, "bootstrap is not available yet")
	}
	if err := s.requireControlPlane("bootstrap"); err != nil {
		return nil, err
	}
	if req.GetRecoverEtcd() {
		return nil, status.Error(codes.Unimplemented, "recovery of etcd from a snapshot is not simulated")
	}
	fresh, err := s.rack.bootstrap(s)
	if err != nil {
		return nil, err
	}
	if !fresh {
		return nil, status.Error(codes.AlreadyExists, "etcd data directory is not empty")
	}
	if hook := s.rack.options.OnBootstrap; hook != nil {
		hook(s.node())
	}
	return &machineapi.BootstrapResponse{Messages: []*machineapi.Bootstrap{{}}}, nil
}

// waitForCRI waits until the container runtime is up. The simulated machine boots in less time than Talos waits, so a
// tenth of patience is spent at most.
func (s *system) waitForCRI(ctx context.Context, patience time.Duration) bool {
	deadline := time.NewTimer(min(patience, s.rack.options.Timing.BootstrapDelay/4))
	defer deadline.Stop()
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		s.mu.Lock()
		up := s.criUp
		s.mu.Unlock()
		if up {
			return true
		}
		select {
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return false
		case <-s.ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// Kubeconfig implements machine.MachineServiceServer.
func (m *machineServer) Kubeconfig(_ *emptypb.Empty, stream machineapi.MachineService_KubeconfigServer) error {
	if err := m.sys.requireControlPlane("kubeconfig"); err != nil {
		return err
	}
	archive, err := kubeconfigArchive(m.sys.config().Cluster(), m.sys.rack.options.Now())
	if err != nil {
		return err
	}
	return stream.Send(&common.Data{Bytes: archive})
}

// GenerateClientConfiguration implements machine.MachineServiceServer.
func (m *machineServer) GenerateClientConfiguration(context.Context, *machineapi.GenerateClientConfigurationRequest) (*machineapi.GenerateClientConfigurationResponse, error) {
	return nil, status.Error(codes.Unimplemented, "generation of client configurations is not simulated")
}

var errNoSystemDisk = errors.New("system disk not found")

func (s *system) resolveInstaller(ref string) (Image, error) {
	if ref == "" {
		return Image{}, errors.New("installer image is required")
	}
	image, err := s.rack.options.Installer(ref)
	if err != nil {
		return Image{}, fmt.Errorf("failed to pull image %q: %w", ref, err)
	}
	return image, nil
}
