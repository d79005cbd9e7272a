package machine

import (
	"context"
	"net"
	"strconv"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// etcdVersion is the one that Talos v1.13 runs.
const etcdVersion = "3.6.8"

// etcdMembers returns the member list and this machine's own ID, or an error while etcd does not serve here.
func (s *system) etcdMembers(api string) (members []etcdMember, own uint64, generation string, err error) {
	if err := s.requireControlPlane(api); err != nil {
		return nil, 0, "", err
	}
	s.mu.Lock()
	up := s.etcdUp
	s.mu.Unlock()
	if !up {
		return nil, 0, "", status.Error(codes.Unavailable, "etcdserver: no leader")
	}
	volume := s.ephemeralVolume()
	s.rack.store.with(func(snap *snapshot) {
		v := snap.disk(volume).Volumes[constants.EphemeralPartitionLabel]
		if v == nil || snap.Etcd[v.EtcdGeneration] == nil {
			return
		}
		own, generation = v.EtcdMember, v.EtcdGeneration
		members = append(members, snap.Etcd[v.EtcdGeneration].Members...)
	})
	return members, own, generation, nil
}

// EtcdMemberList implements machine.MachineServiceServer.
func (m *machineServer) EtcdMemberList(context.Context, *machineapi.EtcdMemberListRequest) (*machineapi.EtcdMemberListResponse, error) {
	members, _, _, err := m.sys.etcdMembers("member list")
	if err != nil {
		return nil, err
	}
	list := &machineapi.EtcdMembers{}
	for _, member := range members {
		list.LegacyMembers = append(list.LegacyMembers, member.Hostname)
		list.Members = append(list.Members, &machineapi.EtcdMember{
			Id: member.ID, Hostname: member.Hostname,
			PeerUrls:   []string{"https://" + net.JoinHostPort(member.Peer, strconv.Itoa(constants.EtcdPeerPort))},
			ClientUrls: []string{"https://" + net.JoinHostPort(member.Peer, strconv.Itoa(constants.EtcdClientPort))},
		})
	}
	return &machineapi.EtcdMemberListResponse{Messages: []*machineapi.EtcdMembers{list}}, nil
}

// EtcdStatus implements machine.MachineServiceServer.
func (m *machineServer) EtcdStatus(context.Context, *emptypb.Empty) (*machineapi.EtcdStatusResponse, error) {
	members, own, _, err := m.sys.etcdMembers("etcd status")
	if err != nil {
		return nil, err
	}
	member := &machineapi.EtcdMemberStatus{
		MemberId: own, ProtocolVersion: etcdVersion, StorageVersion: "3.6.0", DbSize: 1 << 20, DbSizeInUse: 1 << 19, RaftTerm: 2,
	}
	if len(members) > 0 {
		member.Leader = members[0].ID
	}
	return &machineapi.EtcdStatusResponse{Messages: []*machineapi.EtcdStatus{{MemberStatus: member}}}, nil
}

// EtcdRemoveMemberByID implements machine.MachineServiceServer.
func (m *machineServer) EtcdRemoveMemberByID(_ context.Context, req *machineapi.EtcdRemoveMemberByIDRequest) (*machineapi.EtcdRemoveMemberByIDResponse, error) {
	_, _, generation, err := m.sys.etcdMembers("etcd remove member")
	if err != nil {
		return nil, err
	}
	found := false
	m.sys.rack.store.with(func(snap *snapshot) {
		if c := snap.Etcd[generation]; c != nil && c.has(req.GetMemberId()) {
			snap.leave(generation, req.GetMemberId())
			found = true
		}
	})
	if !found {
		return nil, status.Error(codes.NotFound, "etcdserver: member not found")
	}
	m.sys.rack.wake()
	return &machineapi.EtcdRemoveMemberByIDResponse{Messages: []*machineapi.EtcdRemoveMemberByID{{}}}, nil
}

// EtcdAlarmList implements machine.MachineServiceServer: there are never alarms.
func (m *machineServer) EtcdAlarmList(context.Context, *emptypb.Empty) (*machineapi.EtcdAlarmListResponse, error) {
	if _, _, _, err := m.sys.etcdMembers("etcd alarm list"); err != nil {
		return nil, err
	}
	return &machineapi.EtcdAlarmListResponse{Messages: []*machineapi.EtcdAlarm{{}}}, nil
}
