package machine

import (
	"context"
	"fmt"
	"strings"

	"github.com/cosi-project/runtime/pkg/resource"
	"github.com/cosi-project/runtime/pkg/resource/meta"
	"github.com/cosi-project/runtime/pkg/safe"
	"github.com/cosi-project/runtime/pkg/state"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

var errNotAuthorized = status.Error(codes.PermissionDenied, "not authorized")

type rolesKey struct{}

func withRoles(ctx context.Context, roles role.Set) context.Context {
	return context.WithValue(ctx, rolesKey{}, roles)
}

func rolesOf(ctx context.Context) role.Set {
	roles, ok := ctx.Value(rolesKey{}).(role.Set)
	if !ok {
		return role.Zero
	}
	return roles
}

// allowed lists the roles that may call a method, by Talos' rules (v1.13).
func allowed(method string) role.Set {
	everyone := role.MakeSet(role.Admin, role.Operator, role.Reader)
	operators := role.MakeSet(role.Admin, role.Operator)
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if method == "/storage.StorageService/BlockDeviceWipe" {
		return role.MakeSet(role.Admin, role.Reader)
	}
	switch service {
	case "machine.MachineService":
		return allowedMachine(name, everyone, operators)
	case "cluster.ClusterService", "inspect.InspectService", "time.TimeService", "storage.StorageService":
		return everyone
	case "cosi.resource.State":
		if name == "Get" || name == "List" || name == "Watch" {
			return everyone
		}
	case "machine.ImageService":
		switch name {
		case "List":
			return everyone
		case "Verify":
			return role.MakeSet(role.Admin, role.Operator, role.Reader, role.ImageVerifier)
		case "Pull":
			return operators
		}
	}
	return role.MakeSet(role.Admin)
}

func allowedMachine(name string, everyone, operators role.Set) role.Set {
	switch name {
	case "ApplyConfiguration":
		// Readers may apply in maintenance mode only, which the handler checks.
		return role.MakeSet(role.Admin, role.Reader)
	case "CPUInfo", "CPUFreqStats", "Containers", "DiskStats", "DiskUsage", "Dmesg", "Events", "Hostname", "ImageList", "List",
		"LoadAvg", "Logs", "LogsContainers", "Memory", "Mounts", "NetworkDeviceStats", "Netstat", "Processes", "ServiceList",
		"Stats", "SystemStat", "Version":
		return everyone
	case "EtcdAlarmList", "EtcdMemberList", "EtcdStatus":
		return role.MakeSet(role.Admin, role.Operator, role.Reader, role.EtcdBackup)
	case "EtcdSnapshot":
		return role.MakeSet(role.Admin, role.Operator, role.EtcdBackup)
	case "EtcdAlarmDisarm", "EtcdDefragment", "ImagePull", "PacketCapture", "Reboot", "Restart", "ServiceRestart", "ServiceStart",
		"ServiceStop", "Shutdown":
		return operators
	case "MetaWrite", "MetaDelete":
		return role.MakeSet(role.Admin, role.MetaWriter)
	default:
		return role.MakeSet(role.Admin)
	}
}

func authorize(ctx context.Context, method string) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	roles, _ := role.Parse(md.Get(constants.APIAuthzRoleMetadataKey))
	if !allowed(method).IncludesAny(roles) {
		return nil, errNotAuthorized
	}
	return withRoles(ctx, roles), nil
}

func authorizeUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := authorize(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func authorizeStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := authorize(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, contextStream{stream, ctx})
}

// contextStream is a stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // gRPC streams carry their context
}

func (s contextStream) Context() context.Context { return s.ctx }

// certificateRoles are the roles of a client: the organisations of its certificate, or for an impersonator (another
// machine's front server) the roles that it forwards.
func certificateRoles(ctx context.Context) role.Set {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return role.Zero
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return role.Zero
	}
	roles, _ := role.Parse(info.State.PeerCertificates[0].Subject.Organization)
	if !roles.Includes(role.Impersonator) {
		return roles
	}
	md, _ := metadata.FromIncomingContext(ctx)
	forwarded := md.Get(constants.APIAuthzRoleMetadataKey)
	if len(forwarded) == 0 {
		return roles
	}
	roles, _ = role.Parse(forwarded)
	return roles
}

// accessPolicy protects resources: read only, sensitive types for os:admin.
func accessPolicy(st state.State) state.FilteringRule {
	return func(ctx context.Context, access state.Access) error {
		if !access.Verb.Readonly() {
			return status.Error(codes.PermissionDenied, "write access is not allowed")
		}
		definition, err := safe.StateGet[*meta.ResourceDefinition](ctx, st, resource.NewMetadata(meta.NamespaceName,
			meta.ResourceDefinitionType, strings.ToLower(access.ResourceType), resource.VersionUndefined))
		if state.IsNotFoundError(err) {
			return status.Error(codes.PermissionDenied, fmt.Sprintf("resource type %q is not supported", access.ResourceType))
		}
		if err != nil {
			return err
		}
		if definition.TypedSpec().Sensitivity == meta.Sensitive && !rolesOf(ctx).Includes(role.Admin) {
			return errNotAuthorized
		}
		_, err = safe.StateGet[*meta.Namespace](ctx, st, resource.NewMetadata(meta.NamespaceName, meta.NamespaceType,
			access.ResourceNamespace, resource.VersionUndefined))
		if state.IsNotFoundError(err) {
			return status.Error(codes.PermissionDenied, fmt.Sprintf("namespace %q is not supported", access.ResourceNamespace))
		}
		return err
	}
}
