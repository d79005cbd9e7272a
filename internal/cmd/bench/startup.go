package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloudlab/internal/sandbox"
)

const (
	startTarget = 150 * time.Millisecond
	startLimit  = 20 * time.Second
)

// startup measures the compiled program as Pulumi's language host starts it, against a monitor that only looks at the clock.
func (b *bench) startup(ctx context.Context) ([]Series, error) {
	folder := sandbox.Folder(filepath.Join(b.work, "startup"))
	if err := folder.Prepare(ctx); err != nil {
		return nil, err
	}
	settings, err := stackSettings(filepath.Join(b.root, "Pulumi."+sandbox.Stack+".yaml"))
	if err != nil {
		return nil, err
	}
	var registrations []time.Duration
	first, err := b.sample(ctx, "program: first RPC", startTarget, func(ctx context.Context) (time.Duration, error) {
		times, err := startOnce(ctx, b.program, folder, settings)
		registrations = append(registrations, times.registration)
		return times.rpc, err
	})
	if err != nil {
		return nil, err
	}
	return []Series{first, newSeries("program: first resource", 0, registrations[1:])}, nil
}

// stackSettings are a stack file's values as the engine gives them to a program: text, or JSON where they have structure.
func stackSettings(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("stack configuration: %w", err)
	}
	var file struct {
		Config map[string]any `yaml:"config"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	values := map[string]string{}
	for key, value := range file.Config {
		if text, ok := value.(string); ok {
			values[key] = text
			continue
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return "", fmt.Errorf("%s: %s: %w", path, key, err)
		}
		values[key] = string(encoded)
	}
	encoded, err := json.Marshal(values)
	return string(encoded), err
}

// startTimes are since the program was started.
type startTimes struct {
	// rpc is its first call: the process runs and all its packages are initialised.
	rpc time.Duration
	// registration is its first resource below the stack: configuration and secrets are read and found valid.
	registration time.Duration
}

func startOnce(ctx context.Context, program string, folder sandbox.Folder, settings string) (startTimes, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return startTimes{}, fmt.Errorf("monitor: %w", err)
	}
	m := &monitor{done: make(chan struct{})}
	server := grpc.NewServer(grpc.UnaryInterceptor(m.observe))
	pulumirpc.RegisterResourceMonitorServer(server, m)
	pulumirpc.RegisterEngineServer(server, engineServer{})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	cmd := exec.CommandContext(ctx, program)
	cmd.Dir = folder.Project()
	cmd.Env = append(append(os.Environ(), folder.Environ("")...),
		pulumi.EnvProject+"="+sandbox.Project, pulumi.EnvStack+"="+sandbox.Stack, pulumi.EnvDryRun+"=true",
		pulumi.EnvPulumiRootDirectory+"="+folder.Project(), pulumi.EnvConfig+"="+settings,
		pulumi.EnvMonitor+"="+listener.Addr().String(), pulumi.EnvEngine+"="+listener.Addr().String())
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return startTimes{}, fmt.Errorf("program: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-m.done:
		cancel() // kills it
		<-ended  //nolint:errcheck // that it was killed is known
		return startTimes{rpc: m.rpc.Sub(begin), registration: m.registration.Sub(begin)}, nil
	case err := <-ended:
		return startTimes{}, errors.Join(fmt.Errorf("the program ended before it registered a resource: %w", err), errors.New(tail(output.String(), 10)))
	}
}

// monitor is as much of the engine's resource monitor as a program needs to register its first resource.
type monitor struct {
	pulumirpc.UnimplementedResourceMonitorServer

	mu                sync.Mutex
	rpc, registration time.Time
	done              chan struct{}
}

func (m *monitor) observe(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	now := time.Now()
	m.mu.Lock()
	if m.rpc.IsZero() {
		m.rpc = now
	}
	m.mu.Unlock()
	return handle(ctx, request)
}

// SupportsFeature says what a current engine says.
func (m *monitor) SupportsFeature(context.Context, *pulumirpc.SupportsFeatureRequest) (*pulumirpc.SupportsFeatureResponse, error) {
	return &pulumirpc.SupportsFeatureResponse{HasSupport: true}, nil
}

// RegisterResource accepts the stack; with the first resource below it, all is seen.
func (m *monitor) RegisterResource(_ context.Context, r *pulumirpc.RegisterResourceRequest) (*pulumirpc.RegisterResourceResponse, error) {
	if r.GetType() == "pulumi:pulumi:Stack" {
		return &pulumirpc.RegisterResourceResponse{Urn: "urn:pulumi:" + sandbox.Stack + "::" + sandbox.Project + "::" + r.GetType() + "::" + r.GetName()}, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.registration.IsZero() {
		m.registration = time.Now()
		close(m.done)
	}
	return nil, status.Error(codes.Unavailable, "the benchmark has seen enough")
}

// engineServer takes log lines.
type engineServer struct {
	pulumirpc.UnimplementedEngineServer
}

// Log drops a line.
func (engineServer) Log(context.Context, *pulumirpc.LogRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}
