// Package pulumimock runs a Pulumi program in tests against an engine that records what the program registers, with every option,
// and deploys nothing.
//
// Unlike pulumi.WithMocks it also sees outputs (of components and of the stack) and the names of hooks, because the program talks to
// it over gRPC as to the real engine. It does not simulate the engine: no state, no diff, no plugin, no hook is called. Only two things
// are done as the engine does them, because programs depend on it: outputs named by AdditionalSecretOutputs become secret, and in a
// preview nothing has an ID yet.
package pulumimock

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	pulumirpc "github.com/pulumi/pulumi/sdk/v3/proto/go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Run describes one run of a program.
type Run struct {
	Project, Stack string
	// Dir is the project's folder, which the program learns as its root directory.
	Dir string
	// Config holds the stack's configuration by full key, e.g. cloudlab:nodes, as JSON text.
	Config map[string]string
	// Preview runs the program as `pulumi preview` does.
	Preview bool
	// Outputs gives a resource's outputs beside its inputs, with "id" its ID; nil for none.
	Outputs func(Registration) resource.PropertyMap
	// Invoke answers a function call; nil answers with nothing.
	Invoke func(token string, args resource.PropertyMap) (resource.PropertyMap, error)
}

// Registration is one resource as the program registered it.
type Registration struct {
	Type, Name string
	URN        string
	// Parent is the parent's name; empty for children of the stack.
	Parent string
	Inputs resource.PropertyMap
	// Request holds everything else: options, dependencies, provider.
	Request *pulumirpc.RegisterResourceRequest
}

// Recording is what a program did.
type Recording struct {
	// Resources are in the order of registration, without the stack itself.
	Resources []Registration
	// Outputs are what components registered as outputs, by component's name; Stack what the program exported.
	Outputs map[string]resource.PropertyMap
	Stack   resource.PropertyMap
	// Hooks are the names of the registered hooks; Logs what the program logged.
	Hooks, Logs []string
}

// Resource returns the resource of this type and name, and fails the test when there is none.
func (r *Recording) Resource(t testing.TB, kind, name string) Registration {
	t.Helper()
	for _, resource := range r.Resources {
		if resource.Type == kind && resource.Name == name {
			return resource
		}
	}
	t.Fatalf("no resource %s of type %s", name, kind)
	return Registration{}
}

// Record runs the program and returns what it did, even when it failed.
func (r Run) Record(t testing.TB, program pulumi.RunFunc) (*Recording, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{run: r, names: map[string]string{}, recording: &Recording{Outputs: map[string]resource.PropertyMap{}}}
	server := grpc.NewServer()
	pulumirpc.RegisterResourceMonitorServer(server, e)
	pulumirpc.RegisterEngineServer(server, &root{engine: e})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	err = pulumi.RunErr(program, func(info *pulumi.RunInfo) {
		*info = pulumi.RunInfo{
			Project: r.Project, Stack: r.Stack, RootDirectory: r.Dir, Config: r.Config, DryRun: r.Preview, Parallel: 4,
			MonitorAddr: listener.Addr().String(), EngineAddr: listener.Addr().String(),
		}
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.recording, err
}

// engine is the resource monitor's side of the protocol.
type engine struct {
	pulumirpc.UnimplementedResourceMonitorServer
	run Run

	mu        sync.Mutex
	names     map[string]string // by URN
	recording *Recording
}

func (e *engine) GetDeploymentInfo(context.Context, *emptypb.Empty) (*pulumirpc.DeploymentInfo, error) {
	return &pulumirpc.DeploymentInfo{Project: e.run.Project, Stack: e.run.Stack, SupportedFeatures: []pulumirpc.ResourceMonitorFeature{
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_SECRETS,
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES,
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_ALIAS_SPECS,
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_DELETED_WITH,
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_REPLACE_WITH,
		pulumirpc.ResourceMonitorFeature_RESOURCE_MONITOR_FEATURE_RESOURCE_HOOKS,
	}}, nil
}

func (e *engine) RegisterResourceHook(_ context.Context, in *pulumirpc.RegisterResourceHookRequest) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recording.Hooks = append(e.recording.Hooks, in.GetName())
	return &emptypb.Empty{}, nil
}

func (e *engine) SignalAndWaitForShutdown(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (e *engine) urn(in *pulumirpc.RegisterResourceRequest) string {
	parent := tokens.Type("")
	if urn := resource.URN(in.GetParent()); urn != "" && urn.QualifiedType() != resource.RootStackType {
		parent = urn.QualifiedType()
	}
	return string(resource.NewURN(tokens.QName(e.run.Stack), tokens.PackageName(e.run.Project), parent, tokens.Type(in.GetType()), in.GetName()))
}

func (e *engine) RegisterResource(_ context.Context, in *pulumirpc.RegisterResourceRequest) (*pulumirpc.RegisterResourceResponse, error) {
	urn := e.urn(in)
	if in.GetType() == string(resource.RootStackType) {
		return &pulumirpc.RegisterResourceResponse{Urn: urn}, nil
	}
	inputs, err := plugin.UnmarshalProperties(in.GetObject(), kept())
	if err != nil {
		return nil, fmt.Errorf("inputs of %s: %w", urn, err)
	}
	e.mu.Lock()
	registration := Registration{
		Type: in.GetType(), Name: in.GetName(), URN: urn, Parent: e.names[in.GetParent()], Inputs: inputs, Request: in,
	}
	e.names[urn] = in.GetName()
	e.recording.Resources = append(e.recording.Resources, registration)
	e.mu.Unlock()

	outputs := inputs.Copy()
	// A preview knows no more of a new resource than its inputs.
	if e.run.Outputs != nil && !e.run.Preview {
		for key, value := range e.run.Outputs(registration) {
			outputs[key] = value
		}
	}
	id := resource.NewProperty(in.GetName() + "-id")
	if given, ok := outputs["id"]; ok {
		id = given
	}
	delete(outputs, "id")
	for _, name := range in.GetAdditionalSecretOutputs() {
		key := resource.PropertyKey(name)
		if value, ok := outputs[key]; ok && !value.IsSecret() {
			outputs[key] = resource.MakeSecret(value)
		}
	}
	object, err := plugin.MarshalProperties(outputs, kept())
	if err != nil {
		return nil, fmt.Errorf("outputs of %s: %w", urn, err)
	}
	response := &pulumirpc.RegisterResourceResponse{Urn: urn, Object: object}
	if in.GetCustom() && !e.run.Preview {
		response.Id = id.StringValue()
	}
	return response, nil
}

func (e *engine) RegisterResourceOutputs(_ context.Context, in *pulumirpc.RegisterResourceOutputsRequest) (*emptypb.Empty, error) {
	outputs, err := plugin.UnmarshalProperties(in.GetOutputs(), kept())
	if err != nil {
		return nil, fmt.Errorf("outputs of %s: %w", in.GetUrn(), err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if name, ok := e.names[in.GetUrn()]; ok {
		e.recording.Outputs[name] = outputs
	} else {
		e.recording.Stack = outputs
	}
	return &emptypb.Empty{}, nil
}

func (e *engine) Invoke(_ context.Context, in *pulumirpc.ResourceInvokeRequest) (*pulumirpc.ResourceInvokeResponse, error) {
	args, err := plugin.UnmarshalProperties(in.GetArgs(), kept())
	if err != nil {
		return nil, fmt.Errorf("arguments of %s: %w", in.GetTok(), err)
	}
	var result resource.PropertyMap
	if e.run.Invoke != nil {
		if result, err = e.run.Invoke(in.GetTok(), args); err != nil {
			return nil, err
		}
	}
	object, err := plugin.MarshalProperties(result, kept())
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", in.GetTok(), err)
	}
	return &pulumirpc.ResourceInvokeResponse{Return: object}, nil
}

func kept() plugin.MarshalOptions {
	return plugin.MarshalOptions{KeepSecrets: true, KeepResources: true, KeepUnknowns: true}
}

// root is the engine's other service: logs.
type root struct {
	pulumirpc.UnimplementedEngineServer
	engine *engine
}

func (r *root) Log(_ context.Context, in *pulumirpc.LogRequest) (*emptypb.Empty, error) {
	r.engine.mu.Lock()
	defer r.engine.mu.Unlock()
	r.engine.recording.Logs = append(r.engine.recording.Logs, in.GetMessage())
	return &emptypb.Empty{}, nil
}

func (*root) GetRootResource(context.Context, *pulumirpc.GetRootResourceRequest) (*pulumirpc.GetRootResourceResponse, error) {
	return &pulumirpc.GetRootResourceResponse{}, nil
}

func (*root) SetRootResource(context.Context, *pulumirpc.SetRootResourceRequest) (*pulumirpc.SetRootResourceResponse, error) {
	return &pulumirpc.SetRootResourceResponse{}, nil
}
