package machine

import (
	"fmt"
	"slices"
	"sync"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	runtimeres "github.com/siderolabs/talos/pkg/machinery/resources/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// eventLog keeps a boot's events and hands them to watchers.
type eventLog struct {
	mu      sync.Mutex
	events  []loggedEvent
	changed chan struct{}
}

type loggedEvent struct {
	*machineapi.Event
	at time.Time
}

func newEventLog() *eventLog { return &eventLog{changed: make(chan struct{})} }

func (l *eventLog) add(actor string, at time.Time, payload proto.Message) {
	data, err := anypb.New(payload)
	if err != nil {
		return
	}
	// Talos names its events talos/runtime/<message>; clients look them up under that name.
	data.TypeUrl = "talos/runtime/" + string(payload.ProtoReflect().Descriptor().FullName())
	l.mu.Lock()
	defer l.mu.Unlock()
	id := fmt.Sprintf("%020d", len(l.events)+1)
	l.events = append(l.events, loggedEvent{&machineapi.Event{Data: data, Id: id, ActorId: actor}, at})
	close(l.changed)
	l.changed = make(chan struct{})
}

// since returns the events from index on, and a channel that closes when there are more.
func (l *eventLog) since(index int) ([]loggedEvent, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events[min(index, len(l.events)):]), l.changed
}

func (l *eventLog) start(req *machineapi.EventsRequest, now time.Time) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := len(l.events)
	switch {
	case req.GetTailEvents() < 0:
		first = 0
	case req.GetTailEvents() > 0:
		first = max(0, first-int(req.GetTailEvents()))
	}
	if req.GetTailId() != "" {
		i := slices.IndexFunc(l.events, func(e loggedEvent) bool { return e.GetId() == req.GetTailId() })
		if i < 0 {
			return 0, fmt.Errorf("error parsing tail_id: unknown event %q", req.GetTailId())
		}
		first = i + 1
	}
	if req.GetTailSeconds() != 0 {
		from := now.Add(-time.Duration(req.GetTailSeconds()) * time.Second)
		i := slices.IndexFunc(l.events, func(e loggedEvent) bool { return !e.at.Before(from) })
		if i >= 0 {
			first = i
		}
	}
	return first, nil
}

// Events implements machine.MachineServiceServer.
func (m *machineServer) Events(req *machineapi.EventsRequest, stream machineapi.MachineService_EventsServer) error {
	log := m.sys.events
	next, err := log.start(req, m.sys.rack.options.Now())
	if err != nil {
		return err
	}
	// The first event is empty: it tells the client that the stream is up.
	if err := stream.Send(&machineapi.Event{Data: &anypb.Any{TypeUrl: "talos/runtime/"}, ActorId: req.GetWithActorId()}); err != nil {
		return err
	}
	for {
		events, changed := log.since(next)
		next += len(events)
		for _, e := range events {
			if req.GetWithActorId() != "" && e.GetActorId() != req.GetWithActorId() {
				continue
			}
			if err := stream.Send(e.Event); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-m.sys.ctx.Done():
			return status.Error(codes.Unavailable, "the machine is going down")
		}
	}
}

func (s *system) sequenceEvent(actor, name string, action machineapi.SequenceEvent_Action) {
	s.guest.printf("%s sequence: %s", name, action)
	s.events.add(actor, s.rack.options.Now(), &machineapi.SequenceEvent{Sequence: name, Action: action})
}

func (s *system) taskEvent(actor, task string) {
	s.events.add(actor, s.rack.options.Now(), &machineapi.TaskEvent{Task: task, Action: machineapi.TaskEvent_START})
}

// machineStatus is the machine's stage and what keeps it from being ready.
type machineStatus struct {
	mu    sync.Mutex
	stage runtimeres.MachineStage
	unmet []runtimeres.UnmetCondition
}

func (s *system) setStage(stage runtimeres.MachineStage) {
	s.machine.mu.Lock()
	s.machine.stage = stage
	s.machine.mu.Unlock()
	s.publishStage(true)
}

// publishStage shows the stage; changed is false when only readiness may have changed.
func (s *system) publishStage(changed bool) {
	s.machine.mu.Lock()
	defer s.machine.mu.Unlock()
	var unmet []runtimeres.UnmetCondition
	if s.machine.stage == stageRunning || s.machine.stage == stageBooting {
		for _, svc := range s.serviceList() {
			if svc.Health != nil && !svc.Health.Healthy {
				unmet = append(unmet, runtimeres.UnmetCondition{Name: "services", Reason: svc.Id + " not healthy"})
			}
		}
	}
	if !changed && slices.Equal(unmet, s.machine.unmet) {
		return
	}
	s.machine.unmet = unmet
	r := runtimeres.NewMachineStatus()
	r.TypedSpec().Stage = s.machine.stage
	r.TypedSpec().Status.Ready, r.TypedSpec().Status.UnmetConditions = len(unmet) == 0, unmet
	s.put(r)
	s.stageEvent()
}

// stageEvent tells watchers the machine's stage. s.machine.mu is held.
func (s *system) stageEvent() {
	unmet := s.machine.unmet
	event := &machineapi.MachineStatusEvent{
		Stage:  machineapi.MachineStatusEvent_MachineStage(s.machine.stage),
		Status: &machineapi.MachineStatusEvent_MachineStatus{Ready: len(unmet) == 0},
	}
	for _, u := range unmet {
		event.Status.UnmetConditions = append(event.Status.UnmetConditions,
			&machineapi.MachineStatusEvent_MachineStatus_UnmetCondition{Name: u.Name, Reason: u.Reason})
	}
	s.events.add("", s.rack.options.Now(), event)
}

// settle repeats the machine's status for some seconds. A real machine takes minutes to boot and reports its status many
// times; a client that follows a reboot reconnects only after a second and waits for the next report.
func (s *system) settle() {
	for _, after := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second} {
		t := time.NewTimer(after)
		select {
		case <-t.C:
		case <-s.ctx.Done():
			t.Stop()
			return
		}
		s.machine.mu.Lock()
		s.stageEvent()
		s.machine.mu.Unlock()
	}
}
