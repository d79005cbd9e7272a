package talos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumiverse/pulumi-talos/sdk/go/talos/client"
	talosapi "github.com/pulumiverse/pulumi-talos/sdk/go/talos/cluster"
	"github.com/pulumiverse/pulumi-talos/sdk/go/talos/machine"

	"cloudlab/internal/config"
)

const (
	// contactWait bounds the search for the address at which a machine answers, contactTry one round of it.
	contactWait = 20 * time.Second
	contactTry  = 2 * time.Second
	// renewBefore is when a kubeconfig's certificate is due for renewal.
	renewBefore = "720h"
)

// Cluster is a bootstrapped cluster.
type Cluster struct {
	pulumi.ResourceState

	// Kubeconfig and Talosconfig are the administrator's credentials. Secret.
	Kubeconfig, Talosconfig pulumi.StringOutput
}

// Machine is a running machine as this layer sees it.
type Machine struct {
	// Resource is what holds the node's disks: when it is replaced, the node is installed again.
	Resource pulumi.Resource
	// Addresses are where the machine was last seen.
	Addresses pulumi.StringArrayOutput
	// Look asks the hypervisor about the machine now.
	Look func(context.Context) Sight
}

// Sight is what the hypervisor tells about a machine.
type Sight struct {
	// Place names the machine for people: VM 101 on Proxmox node "pve".
	Place string
	// Stopped is true when the machine is certainly off.
	Stopped bool
	// Addresses are those at which it may be reached; none when they are not known.
	Addresses []string
}

// ClusterArgs describe the cluster.
type ClusterArgs struct {
	Cluster  *config.Cluster
	Image    *Image
	Secrets  *Secrets
	Machines map[string]Machine
}

// NewCluster installs, configures and bootstraps the nodes.
func NewCluster(ctx *pulumi.Context, name string, args ClusterArgs, opts ...pulumi.ResourceOption) (*Cluster, error) {
	c := &Cluster{}
	inputs := pulumi.Map{"endpoint": pulumi.String(args.Cluster.Endpoint.String()), "talosVersion": pulumi.String(args.Cluster.TalosVersion)}
	if err := ctx.RegisterComponentResourceV2("cloudlab:talos:Cluster", name, inputs, c, opts...); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	start, err := ctx.RegisterResourceHook("bootstrap", bootstrapFirst, nil)
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	var configured []pulumi.Resource
	nodes := pulumi.Map{}
	for _, node := range args.Cluster.Nodes {
		resource, verdict, err := c.configure(ctx, args, node)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", node.Name, err)
		}
		configured = append(configured, resource)
		nodes[node.Name] = verdict
	}
	if err := c.fetchCredentials(ctx, args, configured, start); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	if err := ctx.RegisterResourceOutputs(c, pulumi.Map{"kubeconfig": c.Kubeconfig, "talosconfig": c.Talosconfig, "nodes": nodes}); err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	return c, nil
}

// configure registers a node's two resources. Neither has the timeouts input of the provider: the official plugin v0.7.1 fails on it
// ("__pulumi_raw_state_delta does not apply cleanly"). The hooks bound the waiting instead.
//
// The first installs through whatever address the machine has before it knows its own,
// and never applies again, so that a lease which changes later changes nothing. The second configures the static address on
// every later change.
//
// The output is for the component's own: it carries the error of a node that is not what the state says.
func (c *Cluster) configure(ctx *pulumi.Context, args ClusterArgs, node config.Node) (pulumi.Resource, pulumi.StringOutput, error) {
	none := pulumi.StringOutput{}
	cluster, seen := args.Cluster, args.Machines[node.Name]
	rehearseInstall, err := ctx.RegisterResourceHook("rehearse-install-"+node.Name, rehearsal{look: seen.Look, wait: bootWait}.beforeApply, nil)
	if err != nil {
		return nil, none, err
	}
	rehearse, err := ctx.RegisterResourceHook("rehearse-"+node.Name, rehearsal{look: seen.Look, wait: reachWait, again: true}.beforeApply, nil)
	if err != nil {
		return nil, none, err
	}
	generated := machine.GetConfigurationOutput(ctx, machine.GetConfigurationOutputArgs{
		ClusterName:       pulumi.String(cluster.Name),
		ClusterEndpoint:   pulumi.String(cluster.Endpoint.String()),
		MachineType:       pulumi.String(string(node.Role)),
		MachineSecrets:    args.Secrets.machine,
		TalosVersion:      pulumi.String(cluster.TalosVersion),
		KubernetesVersion: pulumi.String(cluster.KubernetesVersion),
		ConfigPatches: args.Image.Installer.ApplyT(func(installer string) ([]string, error) {
			return patchTexts(cluster, node, installer)
		}).(pulumi.StringArrayOutput),
		Docs:     pulumi.Bool(false),
		Examples: pulumi.Bool(false),
	}, pulumi.Parent(c))
	machineConfig := pulumi.ToSecret(generated.MachineConfiguration()).(pulumi.StringOutput)

	first := firstContact(ctx, node, seen)
	install, err := machine.NewConfigurationApply(ctx, node.Name+"-install", &machine.ConfigurationApplyArgs{
		ClientConfiguration:       args.Secrets.client,
		MachineConfigurationInput: machineConfig,
		Node:                      pulumi.String(node.Address.Addr().String()),
		Endpoint:                  first,
		ApplyMode:                 pulumi.String("auto"),
	},
		pulumi.Parent(c),
		pulumi.Protect(cluster.Protect),
		pulumi.DependsOn([]pulumi.Resource{seen.Resource}),
		pulumi.ReplaceWith([]pulumi.Resource{seen.Resource}),
		pulumi.DeletedWith(seen.Resource),
		pulumi.IgnoreChanges([]string{"clientConfiguration", "machineConfigurationInput", "node", "endpoint", "applyMode"}),
		pulumi.ResourceHooks(&pulumi.ResourceHookBinding{BeforeCreate: []*pulumi.ResourceHook{rehearseInstall}}))
	if err != nil {
		return nil, none, fmt.Errorf("install: %w", err)
	}

	configure, err := machine.NewConfigurationApply(ctx, node.Name+"-configure", &machine.ConfigurationApplyArgs{
		ClientConfiguration:       args.Secrets.client,
		MachineConfigurationInput: machineConfig,
		Node:                      pulumi.String(node.Address.Addr().String()),
		Endpoint:                  pulumi.String(steadyEndpoint(node)),
		ApplyMode:                 pulumi.String("auto"),
	},
		pulumi.Parent(c),
		pulumi.Protect(cluster.Protect),
		pulumi.DependsOn([]pulumi.Resource{install}),
		pulumi.ReplaceWith([]pulumi.Resource{install}),
		pulumi.DeletedWith(seen.Resource),
		pulumi.ResourceHooks(&pulumi.ResourceHookBinding{
			BeforeCreate: []*pulumi.ResourceHook{rehearse}, BeforeUpdate: []*pulumi.ResourceHook{rehearse},
		}))
	if err != nil {
		return nil, none, fmt.Errorf("configure: %w", err)
	}
	return configure, verdict(ctx, node, first, install, configure), nil
}

// verdict fails when a node that is recorded as configured waits for its first config: its VM or its disk was made anew behind the
// program's back, which the provider does not look for.
func verdict(ctx *pulumi.Context, node config.Node, first pulumi.StringOutput, install, configure *machine.ConfigurationApply) pulumi.StringOutput {
	return pulumi.All(first, install.URN(), configure.ID()).ApplyTWithContext(ctx.Context(), func(apply context.Context, all []any) (string, error) {
		target := all[0].(string)
		if ctx.DryRun() || !unconfigured(apply, target) {
			return "configured", nil
		}
		return "", fmt.Errorf("node %q waits for its first machine config at %s, but is recorded as installed: its VM or disk was made anew. "+
			"Install it again with `pulumi up --replace '%s'`, after docs/runbooks/replace-a-node.md", node.Name, target, all[1])
	}).(pulumi.StringOutput)
}

func (c *Cluster) fetchCredentials(ctx *pulumi.Context, args ClusterArgs, configured []pulumi.Resource, start *pulumi.ResourceHook) error {
	first := args.Cluster.Nodes[0]
	options := []pulumi.ResourceOption{
		pulumi.Parent(c),
		// Protected like the machines, so that a destroy which they refuse has not already forgotten these.
		pulumi.Protect(args.Cluster.Protect),
		pulumi.DependsOn(configured[:1]),
		pulumi.AdditionalSecretOutputs([]string{"kubeconfigRaw", "kubernetesClientConfiguration"}),
		pulumi.ResourceHooks(&pulumi.ResourceHookBinding{BeforeCreate: []*pulumi.ResourceHook{start}}),
	}
	if lone := len(args.Cluster.Nodes) == 1 || args.Cluster.Nodes[1].Role != config.ControlPlane; lone {
		// A new machine for the only control plane is a new etcd. One of several joins the others instead.
		options = append(options, pulumi.ReplaceWith(configured[:1]))
	}
	kubeconfig, err := talosapi.NewKubeconfig(ctx, "kubeconfig", &talosapi.KubeconfigArgs{
		ClientConfiguration: talosapi.KubeconfigClientConfigurationArgs{
			CaCertificate:     args.Secrets.client.CaCertificate(),
			ClientCertificate: args.Secrets.client.ClientCertificate(),
			ClientKey:         args.Secrets.client.ClientKey(),
		},
		Node:                       pulumi.String(first.Address.Addr().String()),
		Endpoint:                   pulumi.String(steadyEndpoint(first)),
		CertificateRenewalDuration: pulumi.String(renewBefore),
	}, options...)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	c.Kubeconfig = pulumi.ToSecret(kubeconfig.KubeconfigRaw).(pulumi.StringOutput)

	var endpoints, nodes []string
	for _, node := range args.Cluster.Nodes {
		nodes = append(nodes, node.Address.Addr().String())
		if node.Role == config.ControlPlane {
			endpoints = append(endpoints, clientEndpoint(node))
		}
	}
	talosconfig := client.GetConfigurationOutput(ctx, client.GetConfigurationOutputArgs{
		ClusterName: pulumi.String(args.Cluster.Name),
		ClientConfiguration: client.GetConfigurationClientConfigurationArgs{
			CaCertificate:     args.Secrets.client.CaCertificate(),
			ClientCertificate: args.Secrets.client.ClientCertificate(),
			ClientKey:         args.Secrets.client.ClientKey(),
		},
		Endpoints: pulumi.ToStringArray(endpoints),
		Nodes:     pulumi.ToStringArray(nodes),
	}, pulumi.Parent(c))
	c.Talosconfig = pulumi.ToSecret(talosconfig.TalosConfig()).(pulumi.StringOutput)
	return nil
}

func patchTexts(cluster *config.Cluster, node config.Node, installer string) ([]string, error) {
	patches, err := Patches(cluster, node, installer)
	if err != nil {
		return nil, err
	}
	all := make([]string, len(patches))
	for i, patch := range patches {
		all[i] = patch.YAML
	}
	return all, nil
}

// steadyEndpoint is where a configured node's API is.
func steadyEndpoint(node config.Node) string {
	if node.TalosEndpoint != "" {
		return node.TalosEndpoint
	}
	return endpoint(node.Address.Addr().String())
}

// clientEndpoint is the same for a talosconfig, which leaves the usual port out.
func clientEndpoint(node config.Node) string {
	if node.TalosEndpoint != "" {
		return node.TalosEndpoint
	}
	return node.Address.Addr().String()
}

// firstContact finds where a machine answers: at its static address when an earlier run got that far, or where the guest agent saw
// it. Only an up looks; a preview would change nothing by it.
func firstContact(ctx *pulumi.Context, node config.Node, machine Machine) pulumi.StringOutput {
	return machine.Addresses.ApplyTWithContext(ctx.Context(), func(apply context.Context, addresses []string) (string, error) {
		candidates := contacts(node, addresses)
		if ctx.DryRun() {
			return candidates[len(candidates)-1], nil
		}
		sight := Sight{Place: "machine"}
		for begin := time.Now(); time.Since(begin) < contactWait && !sight.Stopped; {
			if target, ok := firstReachable(apply, candidates, contactTry); ok {
				return target, nil
			}
			if machine.Look == nil {
				continue
			}
			// The resource knows none when the agent was too slow for the provider, or the start went well with a warning.
			if sight = machine.Look(apply); len(sight.Addresses) > 0 {
				candidates = contacts(node, sight.Addresses)
			}
		}
		state := fmt.Sprintf("no Talos API at %s", strings.Join(candidates, ", "))
		switch {
		case sight.Stopped:
			state += ", the machine is stopped"
		case len(candidates) == 1 && node.TalosEndpoint == "":
			state += ", and its guest agent reports no address"
		}
		if err := ctx.Log.Warn(fmt.Sprintf("node %q (%s): %s", node.Name, sight.Place, state), nil); err != nil {
			return "", fmt.Errorf("node %q: %w", node.Name, err)
		}
		return candidates[len(candidates)-1], nil
	}).(pulumi.StringOutput)
}

// contacts lists the endpoints at which a machine with these addresses may be, the steady one first.
func contacts(node config.Node, addresses []string) []string {
	candidates := []string{steadyEndpoint(node)}
	if node.TalosEndpoint != "" {
		return candidates
	}
	for _, address := range addresses {
		if target := endpoint(address); !slices.Contains(candidates, target) {
			candidates = append(candidates, target)
		}
	}
	return candidates
}
