package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	clusterres "github.com/siderolabs/talos/pkg/machinery/resources/cluster"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloudlab/internal/sandbox/pve"
)

func TestCluster(t *testing.T) {
	var mu sync.Mutex
	var bootstrapped []int
	configuredOnes := map[int]bool{}
	l := newLab(t, func(o *Options) {
		o.OnBootstrap = func(n Node) { mu.Lock(); defer mu.Unlock(); bootstrapped = append(bootstrapped, n.VMID) }
		o.OnConfigure = func(n Node) { mu.Lock(); defer mu.Unlock(); configuredOnes[n.VMID] = n.ControlPlane }
	})
	vip := func(vmid int) string {
		return fmt.Sprintf("machine: {network: {interfaces: [{deviceSelector: {hardwareAddr: %q}, vip: {ip: 192.0.2.10}}]}}", macLower(vmid))
	}
	// The worker comes first: it has to wait for a control plane.
	l.install(qemu(201), l.config(machine.TypeWorker, 201, 21))
	l.phase(201, PhaseRunning)
	if _, err := l.lan.DialContext(t.Context(), "tcp", "192.0.2.21:50000"); err == nil {
		t.Error("a worker has a certificate before there is a control plane")
	}
	for i := range 3 {
		l.install(qemu(101+i), l.config(machine.TypeControlPlane, 101+i, 11+i, vip(101+i)))
	}
	for i := range 3 {
		l.phase(101+i, PhaseRunning)
	}
	admin := l.secure("192.0.2.11")
	_, err := admin.EtcdMemberList(t.Context(), &machineapi.EtcdMemberListRequest{})
	wantCode(t, err, codes.Unavailable, "no leader")
	worker := l.secure("192.0.2.21")
	eventually(t, "worker", func() error { _, err := worker.Version(t.Context()); return err })
	err = worker.Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
	wantCode(t, err, codes.Unimplemented, "bootstrap is only available on control plane nodes")
	_, err = worker.Kubeconfig(t.Context())
	wantCode(t, err, codes.Unimplemented, "kubeconfig is only available on control plane nodes")
	_, err = worker.Version(client.WithNode(t.Context(), "192.0.2.11"))
	wantCode(t, err, codes.PermissionDenied, "no request forwarding")

	l.bootstrap(admin)
	eventually(t, "members", func() error {
		resp, err := admin.EtcdMemberList(t.Context(), &machineapi.EtcdMemberListRequest{})
		if err != nil {
			return err
		}
		return unless(len(resp.Messages[0].Members) == 3, resp.String())
	})
	err = l.secure("192.0.2.12").Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
	wantCode(t, err, codes.AlreadyExists, "etcd data directory is not empty")
	mu.Lock()
	if len(bootstrapped) != 1 || bootstrapped[0] != 101 || len(configuredOnes) != 4 || configuredOnes[201] {
		t.Errorf("hooks: %v %v", bootstrapped, configuredOnes)
	}
	mu.Unlock()

	t.Run("routing", func(t *testing.T) {
		all := []string{"192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.21"}
		resp, err := admin.MachineClient.Hostname(client.WithNodes(t.Context(), all...), &emptypb.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]string{}
		for _, m := range resp.Messages {
			names[m.Metadata.Hostname] = m.Hostname
		}
		if names["192.0.2.12"] != "node-102" || names["192.0.2.21"] != "node-201" || len(names) != 4 {
			t.Errorf("answers %v", names)
		}
		one, err := admin.MachineClient.Hostname(client.WithNode(t.Context(), "192.0.2.13"), &emptypb.Empty{})
		if err != nil || one.Messages[0].Hostname != "node-103" {
			t.Errorf("one node: %v %v", one, err)
		}
		list, err := safe.StateListAll[*clusterres.Member](client.WithNode(t.Context(), "192.0.2.21"), admin.COSI)
		if err != nil || list.Len() != 4 {
			t.Errorf("members %d %v", list.Len(), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		partial, err := client.FilterMessages(admin.MachineClient.Hostname(client.WithNodes(ctx, "192.0.2.11", "192.0.2.99"), &emptypb.Empty{}))
		if err == nil || len(partial.GetMessages()) != 1 {
			t.Errorf("a missing node: %v %v", partial, err)
		}
	})
	t.Run("health", func(t *testing.T) {
		stream, err := admin.ClusterHealthCheck(t.Context(), 5*time.Second, &cluster.ClusterInfo{})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, err, codes.Unimplemented, "the machines are healthy")
	})
	t.Run("shared address", func(t *testing.T) {
		// Certificates carry the shared address only on its holder, so the client proves who answers.
		shared := l.secure("192.0.2.10")
		name := func() string {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			resp, err := shared.MachineClient.Hostname(ctx, &emptypb.Empty{})
			if err != nil {
				return err.Error()
			}
			return resp.Messages[0].Hostname
		}
		eventually(t, "holder", func() error { return unless(name() == "node-101", name()) })
		l.rack.PowerOff(101)
		eventually(t, "next holder", func() error { return unless(name() == "node-102", name()) })
		l.rack.PowerOff(102)
		eventually(t, "lost quorum", func() error { return unless(!l.status(103).Bootstrapped, "etcd serves without quorum") })
		l.powerOn(qemu(101))
		eventually(t, "quorum again", func() error { return unless(l.status(103).Bootstrapped && l.status(101).Bootstrapped, "no quorum") })
	})
	t.Run("member removed", func(t *testing.T) {
		eventually(t, "removal", func() error {
			resp, err := admin.EtcdMemberList(t.Context(), &machineapi.EtcdMemberListRequest{})
			if err != nil {
				return err
			}
			for _, m := range resp.Messages[0].Members {
				if m.Hostname == "node-102" {
					return admin.EtcdRemoveMemberByID(t.Context(), &machineapi.EtcdRemoveMemberByIDRequest{MemberId: m.Id})
				}
			}
			return nil
		})
		l.rack.Destroy(102)
		hw := qemu(102)
		l.install(hw, l.config(machine.TypeControlPlane, 102, 12, vip(102)))
		eventually(t, "joined again", func() error { return unless(l.status(102).Bootstrapped, "not joined") })
	})
}

func macLower(vmid int) string {
	found, _ := links([]pve.NIC{{MAC: mac(vmid)}})
	return found[0].mac.String()
}

func TestFaults(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	const version = "/machine.MachineService/Version"
	for _, bad := range []Fault{{Method: "Version", Code: "UNAVAILABLE"}, {Method: version, Code: "Broken"}, {Method: version}} {
		if _, err := l.rack.AddFault(bad); err == nil {
			t.Errorf("fault %+v is taken", bad)
		}
	}
	id, err := l.rack.AddFault(Fault{VMID: 101, Method: version, Nth: 2, Times: 1, Code: "RESOURCE_EXHAUSTED", Message: "too much"})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		_, err := admin.Version(t.Context())
		if i == 2 {
			wantCode(t, err, codes.ResourceExhausted, "too much")
		} else if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if seen := l.rack.Faults()[0].Seen; seen != 3 {
		t.Errorf("seen %d", seen)
	}
	if l.rack.ClearFault(id) != 1 || len(l.rack.Faults()) != 0 {
		t.Error("the fault stays")
	}
	if _, err := l.rack.AddFault(Fault{Method: version, Times: 1, Drop: true}); err != nil {
		t.Fatal(err)
	}
	_, err = admin.Version(t.Context())
	wantCode(t, err, codes.Unavailable, "")
	eventually(t, "heals", func() error { _, err := admin.Version(t.Context()); return err })
	if _, err := l.rack.AddFault(Fault{Method: version, Delay: Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = admin.Version(ctx)
	wantCode(t, err, codes.DeadlineExceeded, "")
}

func TestSnapshot(t *testing.T) {
	l := newLab(t)
	l.controlPlane(101)
	data, err := l.rack.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.rack.Restore(data); err == nil {
		t.Error("restored under a running machine")
	}
	l.rack.PowerOff(101)

	next := newLab(t)
	if err := next.rack.Restore(data); err != nil {
		t.Fatal(err)
	}
	next.powerOn(qemu(101))
	next.phase(101, PhaseRunning)
	admin := next.secure("192.0.2.11")
	eventually(t, "etcd", func() error { return unless(next.status(101).Bootstrapped, "no etcd") })
	err = admin.Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
	wantCode(t, err, codes.AlreadyExists, "")
	next.rack.Destroy(101)
	next.powerOn(qemu(101))
	next.phase(101, PhaseMaintenance)
	if err := next.rack.Restore([]byte("{")); err == nil {
		t.Error("nonsense restored")
	}
}

// TestPowerEvents pulls plugs at every moment; the race detector watches.
func TestPowerEvents(t *testing.T) {
	l := newLab(t)
	data := l.config(machine.TypeControlPlane, 101, 11)
	for i := range 25 {
		l.powerOn(qemu(101))
		var wg sync.WaitGroup
		wg.Go(func() {
			nics, err := l.rack.Interfaces(101)
			if err != nil || len(nics) < 2 {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			c := l.insecure(l.agentAddress(101))
			_, _ = c.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{Data: data, Mode: applyAuto})
		})
		wg.Go(func() { _, _ = l.rack.Snapshot(); _ = l.rack.Status() })
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		if i%5 == 4 {
			l.rack.Destroy(101)
		} else {
			l.rack.PowerOff(101)
		}
		wg.Wait()
	}
	l.install(qemu(101), data)
	l.phase(101, PhaseRunning)
}

func TestEvents(t *testing.T) {
	l := newLab(t)
	admin := l.controlPlane(101)
	stream, err := admin.Events(t.Context(), client.WithTailEvents(-1))
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	stages, sequences := map[machineapi.MachineStatusEvent_MachineStage]bool{}, map[string]bool{}
	for {
		event, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) && client.StatusCode(err) != codes.Unavailable {
				t.Errorf("end of events: %v", err)
			}
			break
		}
		parsed, err := client.UnmarshalEvent(event)
		if err != nil {
			continue
		}
		switch payload := parsed.Payload.(type) {
		case *machineapi.MachineStatusEvent:
			stages[payload.Stage] = true
		case *machineapi.SequenceEvent:
			sequences[payload.Sequence] = true
		}
	}
	if !stages[machineapi.MachineStatusEvent_RUNNING] || !stages[machineapi.MachineStatusEvent_REBOOTING] || !sequences["reboot"] {
		t.Errorf("stages %v, sequences %v", stages, sequences)
	}
}

func TestDHCPOnly(t *testing.T) {
	l := newLab(t)
	cfg, err := l.input.Config(machine.TypeControlPlane)
	if err != nil {
		t.Fatal(err)
	}
	data, err := cfg.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	l.powerOn(qemu(101))
	l.phase(101, PhaseMaintenance)
	leased := l.agentAddress(101)
	if _, err := l.apply(l.insecure(leased), data, applyAuto); err != nil {
		t.Fatal(err)
	}
	l.phase(101, PhaseRunning)
	if got := l.agentAddress(101); got != leased {
		t.Errorf("address %s, had %s", got, leased)
	}
	if _, err := l.secure(leased).Version(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBootstrapTooEarly(t *testing.T) {
	l := newLab(t, func(o *Options) { o.Timing.BootstrapDelay = 400 * time.Millisecond })
	l.install(qemu(101), l.config(machine.TypeControlPlane, 101, 11))
	l.phase(101, PhaseBooting)
	err := l.secure("192.0.2.11").Bootstrap(t.Context(), &machineapi.BootstrapRequest{})
	wantCode(t, err, codes.FailedPrecondition, "bootstrap is not available yet")
	l.phase(101, PhaseRunning)
}

func TestAddressTaken(t *testing.T) {
	l := newLab(t)
	taken, err := l.lan.Listen("192.0.2.11:50000")
	if err != nil {
		t.Fatal(err)
	}
	l.install(qemu(101), l.config(machine.TypeControlPlane, 101, 11))
	l.phase(101, PhaseRunning)
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "address", func() error {
		conn, err := l.lan.DialContext(t.Context(), "tcp", "192.0.2.11:50000")
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("lab", func(t *testing.T) {
		l := newLab(t)
		l.controlPlane(101)
		l.powerOn(qemu(102))
		l.phase(102, PhaseMaintenance)
	})
	eventually(t, "goroutines", func() error {
		now := runtime.NumGoroutine()
		return unless(now <= before, fmt.Sprintf("%d, were %d", now, before))
	})
}

func BenchmarkMachines(b *testing.B) {
	for _, count := range []int{1, 10, 50} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			for range b.N {
				bootMany(b, count)
			}
		})
	}
}
