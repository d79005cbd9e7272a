package machine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reboot implements machine.MachineServiceServer.
func (m *machineServer) Reboot(context.Context, *machineapi.RebootRequest) (*machineapi.RebootResponse, error) {
	actor := uuid.NewString()
	m.sys.guest.printf("reboot via API received. actor id: %s", actor)
	m.sys.submit(request{kind: reboot, actor: actor})
	return &machineapi.RebootResponse{Messages: []*machineapi.Reboot{{ActorId: actor}}}, nil
}

// Shutdown implements machine.MachineServiceServer.
func (m *machineServer) Shutdown(context.Context, *machineapi.ShutdownRequest) (*machineapi.ShutdownResponse, error) {
	actor := uuid.NewString()
	m.sys.guest.printf("shutdown via API received. actor id: %s", actor)
	m.sys.takeover(request{kind: shutdown, actor: actor})
	return &machineapi.ShutdownResponse{Messages: []*machineapi.Shutdown{{ActorId: actor}}}, nil
}

// Upgrade implements machine.MachineServiceServer.
func (m *machineServer) Upgrade(_ context.Context, req *machineapi.UpgradeRequest) (*machineapi.UpgradeResponse, error) {
	s := m.sys
	if s.systemVolume() == "" {
		return nil, status.Error(codes.FailedPrecondition, "Talos is not installed")
	}
	image, err := s.resolveInstaller(req.GetImage())
	if err != nil {
		return nil, fmt.Errorf("error validating installer image %q: %w", req.GetImage(), err)
	}
	if cfg := s.completeConfig(); cfg != nil && cfg.Machine().Type().IsControlPlane() && !req.GetForce() && !req.GetPreserve() {
		s.mu.Lock()
		up := s.etcdUp
		s.mu.Unlock()
		if !up {
			return nil, errors.New("failed to acquire upgrade mutex: etcd is not available")
		}
	}
	if req.GetStage() {
		return nil, status.Error(codes.Unimplemented, "staged upgrades are not simulated")
	}
	actor := uuid.NewString()
	s.submit(request{kind: upgrade, actor: actor, image: image, ref: req.GetImage()})
	return &machineapi.UpgradeResponse{Messages: []*machineapi.Upgrade{{Ack: "Upgrade request received", ActorId: actor}}}, nil
}

// Rollback implements machine.MachineServiceServer.
func (m *machineServer) Rollback(context.Context, *machineapi.RollbackRequest) (*machineapi.RollbackResponse, error) {
	volume := m.sys.systemVolume()
	if volume == "" {
		return nil, status.Error(codes.FailedPrecondition, errNoSystemDisk.Error())
	}
	reverted := false
	m.sys.rack.store.with(func(snap *snapshot) {
		d := snap.disk(volume)
		if d.Previous != nil {
			d.Installed, d.Previous, reverted = d.Previous, d.Installed, true
		}
	})
	if !reverted {
		return nil, errors.New("previous UKI not found")
	}
	m.sys.takeover(request{kind: reboot})
	return &machineapi.RollbackResponse{Messages: []*machineapi.Rollback{{}}}, nil
}

// Reset implements machine.MachineServiceServer.
func (m *machineServer) Reset(_ context.Context, req *machineapi.ResetRequest) (*machineapi.ResetResponse, error) {
	plan, err := m.planReset(req)
	if err != nil {
		return nil, err
	}
	actor := uuid.NewString()
	m.sys.guest.printf("reset request received. actorID: %s", actor)
	m.sys.submit(request{kind: reset, actor: actor, reset: plan})
	return &machineapi.ResetResponse{Messages: []*machineapi.Reset{{ActorId: actor}}}, nil
}

func (m *machineServer) planReset(req *machineapi.ResetRequest) (resetPlan, error) {
	plan := resetPlan{graceful: req.GetGraceful(), reboot: req.GetReboot(), userDisks: req.GetUserDisksToWipe()}
	if len(req.GetUserDisksToWipe()) > 0 && req.GetMode() == machineapi.ResetRequest_SYSTEM_DISK {
		return plan, errors.New("reset failed: invalid input, wipe mode SYSTEM_DISK doesn't support UserDisksToWipe parameter")
	}
	for _, name := range req.GetUserDisksToWipe() {
		i := slices.IndexFunc(m.sys.disks(), func(d volumeDisk) bool { return d.spec.TypedSpec().DevPath == name })
		if i < 0 {
			return plan, fmt.Errorf("reset user disk failed: device %s wasn't found", name)
		}
		if m.sys.disks()[i].system {
			return plan, fmt.Errorf("reset user disk failed: device %s is the system disk", name)
		}
	}
	if len(req.GetSystemPartitionsToWipe()) > 0 && req.GetMode() == machineapi.ResetRequest_USER_DISKS {
		return plan, errors.New("reset failed: invalid input, wipe mode USER_DISKS doesn't support SystemPartitionsToWipe parameter")
	}
	for _, p := range req.GetSystemPartitionsToWipe() {
		switch p.GetLabel() {
		case constants.StatePartitionLabel, constants.EphemeralPartitionLabel:
		default:
			return plan, fmt.Errorf("failed to get volume status with label %q: the simulated machine resets STATE and EPHEMERAL only", p.GetLabel())
		}
		if p.GetWipe() {
			plan.labels = append(plan.labels, p.GetLabel())
		}
	}
	plan.system = req.GetMode() != machineapi.ResetRequest_USER_DISKS && len(req.GetSystemPartitionsToWipe()) == 0
	return plan, nil
}
