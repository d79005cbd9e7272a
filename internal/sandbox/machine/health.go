package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/siderolabs/talos/pkg/machinery/api/cluster"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
