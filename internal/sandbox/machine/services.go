package machine

import (
	"context"
	"fmt"
	"slices"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/resources/v1alpha1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// serviceState is a service as it would report itself.
type serviceState int

const (
	serviceRunning serviceState = iota
	// serviceUnchecked runs and has no health check.
	serviceUnchecked
	serviceUnhealthy
	serviceWaiting
)

type service struct {
	id    string
	state serviceState
	why   string
}

// serviceSet lists what runs at this point of the boot.
func (s *system) serviceSet() []service {
	s.mu.Lock()
	cfg, cri, etcdUp, maintenance := s.active, s.criUp, s.etcdUp, s.maintenance
	s.mu.Unlock()
	list := []service{
		{id: "apid"}, {id: "auditd"}, {id: "containerd"}, {id: "dashboard", state: serviceUnchecked}, {id: "machined"}, {id: "syslogd"}, {id: "udevd"},
	}
	if s.medium.image.has(GuestAgent) {
		list = append(list, service{id: "ext-qemu-guest-agent", state: serviceUnchecked})
	}
	if cfg == nil || !cfg.CompleteForBoot() || maintenance || s.systemVolume() == "" {
		return sorted(list)
	}
	waiting := func(id string) service {
		return service{id: id, state: serviceWaiting, why: "Waiting for volume EPHEMERAL"}
	}
	names := []string{"cri", "kubelet"}
	if cfg.Machine().Type().IsControlPlane() {
		names = append(names, "etcd", "trustd")
	}
	for _, id := range names {
		svc := service{id: id}
		switch {
		case !cri:
			svc = waiting(id)
		case id == "etcd" && !etcdUp:
			svc.state, svc.why = serviceWaiting, "Running pre state"
		case id == "kubelet" && !s.clusterUp(etcdUp):
			svc.state, svc.why = serviceUnhealthy, "the Kubernetes API does not answer"
		}
		list = append(list, svc)
	}
	return sorted(list)
}

func sorted(list []service) []service {
	slices.SortFunc(list, func(a, b service) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return list
}

// clusterUp is true when this machine's etcd serves, or for a worker when a control plane's does.
func (s *system) clusterUp(own bool) bool {
	cfg := s.completeConfig()
	if own || cfg == nil || cfg.Machine().Type().IsControlPlane() {
		return own
	}
	for _, p := range s.rack.peers() {
		p.sys.mu.Lock()
		up := p.sys.etcdUp
		p.sys.mu.Unlock()
		if up && p.key == clusterKey(cfg) {
			return true
		}
	}
	return false
}

func (s *system) serviceList() []*machineapi.ServiceInfo {
	since := timestamppb.New(s.started)
	var list []*machineapi.ServiceInfo
	for _, svc := range s.serviceSet() {
		s.mu.Lock()
		off := s.services[svc.id]
		s.mu.Unlock()
		info := &machineapi.ServiceInfo{Id: svc.id, State: "Running", Health: &machineapi.ServiceHealth{LastChange: since}}
		message := "Started task " + svc.id
		switch {
		case off:
			info.State, message = "Finished", "Service finished successfully"
		case svc.state == serviceRunning:
			info.Health.Healthy, message = true, "Health check successful"
		case svc.state == serviceUnchecked:
			info.Health.Unknown, info.Health.Healthy = true, true
		case svc.state == serviceUnhealthy:
			info.Health.LastMessage, message = svc.why, "Health check failed: "+svc.why
		case svc.state == serviceWaiting:
			info.State, message, info.Health.Unknown = "Preparing", svc.why, true
		}
		if svc.state == serviceUnchecked {
			info.Health.Healthy = !off
		}
		info.Events = &machineapi.ServiceEvents{Events: []*machineapi.ServiceEvent{{Msg: message, State: info.State, Ts: since}}}
		list = append(list, info)
	}
	return list
}

// publishServices shows services as resources and updates the machine's readiness.
func (s *system) publishServices() {
	kept := map[string]bool{}
	list := s.serviceList()
	content := ""
	for _, info := range list {
		content += fmt.Sprint(info.GetId(), info.GetState(), info.GetHealth().GetHealthy(), info.GetHealth().GetUnknown(), " ")
	}
	if !s.show("services", content) {
		return
	}
	for _, info := range list {
		r := v1alpha1.NewService(info.GetId())
		r.TypedSpec().Running = info.GetState() == "Running"
		r.TypedSpec().Healthy, r.TypedSpec().Unknown = info.GetHealth().GetHealthy(), info.GetHealth().GetUnknown()
		kept[info.GetId()] = true
		s.put(r)
	}
	s.keep(v1alpha1.NewService("").Metadata().Copy(), kept)
	s.publishStage(false)
}

// ServiceList implements machine.MachineServiceServer.
func (m *machineServer) ServiceList(context.Context, *emptypb.Empty) (*machineapi.ServiceListResponse, error) {
	return &machineapi.ServiceListResponse{Messages: []*machineapi.ServiceList{{Services: m.sys.serviceList()}}}, nil
}

// toggle starts or stops a service that the API may handle.
func (m *machineServer) toggle(id, verb string, off bool) (string, error) {
	if !slices.ContainsFunc(m.sys.serviceSet(), func(s service) bool { return s.id == id }) {
		return "", status.Errorf(codes.Unknown, "service %q not defined", id)
	}
	switch id {
	case "machined", "apid", "containerd", "udevd", "auditd", "syslogd", "dashboard":
		return "", status.Errorf(codes.Unknown, "service %q doesn't support %s operation via API", id, verb)
	}
	m.sys.mu.Lock()
	m.sys.services[id] = off
	m.sys.mu.Unlock()
	m.sys.rack.wake()
	return fmt.Sprintf("Service %q %sed", id, pastStem(verb)), nil
}

func pastStem(verb string) string {
	if verb == "stop" {
		return "stopp"
	}
	return verb
}

// ServiceStart implements machine.MachineServiceServer.
func (m *machineServer) ServiceStart(_ context.Context, req *machineapi.ServiceStartRequest) (*machineapi.ServiceStartResponse, error) {
	text, err := m.toggle(req.GetId(), "start", false)
	if err != nil {
		return nil, err
	}
	return &machineapi.ServiceStartResponse{Messages: []*machineapi.ServiceStart{{Resp: text}}}, nil
}

// ServiceStop implements machine.MachineServiceServer.
func (m *machineServer) ServiceStop(_ context.Context, req *machineapi.ServiceStopRequest) (*machineapi.ServiceStopResponse, error) {
	text, err := m.toggle(req.GetId(), "stop", true)
	if err != nil {
		return nil, err
	}
	return &machineapi.ServiceStopResponse{Messages: []*machineapi.ServiceStop{{Resp: text}}}, nil
}

// ServiceRestart implements machine.MachineServiceServer.
func (m *machineServer) ServiceRestart(_ context.Context, req *machineapi.ServiceRestartRequest) (*machineapi.ServiceRestartResponse, error) {
	text, err := m.toggle(req.GetId(), "restart", false)
	if err != nil {
		return nil, err
	}
	return &machineapi.ServiceRestartResponse{Messages: []*machineapi.ServiceRestart{{Resp: text}}}, nil
}
