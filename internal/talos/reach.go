package talos

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
	"github.com/siderolabs/talos/pkg/machinery/client/dialer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	apiPort = "50000"
	// attempt bounds one try to reach a node, pause is the time between two.
	attempt = 3 * time.Second
	pause   = 250 * time.Millisecond
)

// endpoint gives an address the Talos API's port unless it has one.
func endpoint(address string) string {
	if _, ok := hostOf(address); ok {
		return address
	}
	return net.JoinHostPort(address, apiPort)
}

// hostOf is the host of host:port.
func hostOf(hostport string) (string, bool) {
	host, _, err := net.SplitHostPort(hostport)
	return host, err == nil
}

// firstReachable waits until a Talos API answers at one of the endpoints, configured or not, and returns it; the first wins when
// several do. It returns false when none did in time.
func firstReachable(ctx context.Context, endpoints []string, within time.Duration) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		answers := make(chan int, len(endpoints))
		for i, target := range endpoints {
			go func() {
				if handshake(ctx, target) != nil {
					i = len(endpoints)
				}
				answers <- i
			}()
		}
		best := len(endpoints)
		for range endpoints {
			best = min(best, <-answers)
		}
		if best < len(endpoints) {
			return endpoints[best], true
		}
		select {
		case <-ctx.Done():
			return "", false
		case <-time.After(pause):
		}
	}
}

// handshake greets the TLS server at an endpoint, through the proxy that the environment names, as the provider does.
func handshake(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	conn, err := dialer.DynamicProxyDialer(ctx, target)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	// Nothing is sent and nothing believed: this only asks whether somebody is there.
	greeting := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}) //nolint:gosec // see above
	return greeting.HandshakeContext(ctx)
}

// Probe reports whether a machine answers at one of these addresses, and if so whether it waits for its first machine config: only
// then does Talos answer a client that has no certificate.
func Probe(ctx context.Context, addresses []string) (answers, waits bool) {
	for _, address := range addresses {
		ip := net.ParseIP(address)
		if ip == nil || !ip.IsGlobalUnicast() {
			continue
		}
		target := endpoint(address)
		if unconfigured(ctx, target) {
			return true, true
		}
		answers = answers || handshake(ctx, target) == nil
	}
	return answers, false
}

func unconfigured(ctx context.Context, target string) bool {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	c, err := client.New(ctx, client.WithDefaultGRPCDialOptions(), client.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}), client.WithEndpoints(target)) //nolint:gosec // a machine in maintenance mode has no identity yet
	if err != nil {
		return false
	}
	defer c.Close() //nolint:errcheck // read only
	_, err = c.Disks(ctx)
	return err == nil
}

// bootstrap starts etcd on the first control plane. It may be called again: a node whose etcd has data is left as it is.
func bootstrap(ctx context.Context, node, target string, credentials *tls.Config) error {
	return insist(ctx, "bootstrap "+target, readLog, credentials, target, func(ctx context.Context, c *client.Client) error {
		err := c.Bootstrap(client.WithNode(ctx, node), &machineapi.BootstrapRequest{})
		if status.Code(err) == codes.AlreadyExists {
			return nil
		}
		return err
	})
}

// awaitKubeconfig waits until the node hands out a kubeconfig: the provider would try for ten minutes and say nothing.
func awaitKubeconfig(ctx context.Context, node, target string, credentials *tls.Config) error {
	return insist(ctx, "kubeconfig of "+target, readLog, credentials, target, func(ctx context.Context, c *client.Client) error {
		_, err := c.Kubeconfig(client.WithNode(ctx, node))
		return err
	})
}

// readLog is the next step when a configured node does not do its part.
const readLog = "look at the node with `talosctl dmesg` and `talosctl services`, then run up again"

// insist repeats a call until it succeeds, an answer is final, or ctx ends. An error ends with the next step.
func insist(ctx context.Context, what, next string, credentials *tls.Config, target string, call func(context.Context, *client.Client) error) error {
	c, err := client.New(ctx, client.WithDefaultGRPCDialOptions(), client.WithTLSConfig(credentials), client.WithEndpoints(target))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer c.Close() //nolint:errcheck // nothing is buffered
	last := "no answer"
	for {
		once, cancel := context.WithTimeout(ctx, attempt)
		err := call(once, c)
		cancel()
		switch status.Code(err) {
		case codes.OK:
			return nil
		case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
			return fmt.Errorf("%s: refused: %s: %s", what, status.Convert(err).Message(), next)
		}
		if ctx.Err() == nil {
			last = strings.TrimSpace(status.Convert(err).Message())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not accepted in time; last answer: %s: %s", what, last, next)
		case <-time.After(pause):
		}
	}
}
