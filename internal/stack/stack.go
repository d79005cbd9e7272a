package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/muhlba91/pulumi-proxmoxve/sdk/v6/go/proxmoxve"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	talosprovider "github.com/pulumiverse/pulumi-talos/sdk/go/talos"

	"cloudlab/internal/config"
	"cloudlab/internal/proxmox"
	"cloudlab/internal/sopsfile"
	"cloudlab/internal/talos"
)

// Deploy is the program as `pulumi up` runs it: files are looked for beside Pulumi.yaml.
func Deploy(ctx *pulumi.Context) error { return Program(ctx.RootDirectory())(ctx) }

// Program is Deploy with its files (secrets, .sops.yaml, the encrypted credentials) in dir.
func Program(dir string) pulumi.RunFunc {
	return func(ctx *pulumi.Context) error {
		cluster, err := config.Load(ctx)
		if err != nil {
			return err
		}
		keys := sopsfile.FromEnvironment(dir, os.Getenv)
		secrets, err := sopsfile.ReadSecrets(dir, keys)
		if err != nil {
			return err
		}
		if ca := cluster.Proxmox.TLS.CAFile; ca != "" {
			if !filepath.IsAbs(ca) {
				cluster.Proxmox.TLS.CAFile = filepath.Join(dir, ca)
			}
			if err := checkTrust(cluster.Proxmox.TLS.CAFile, os.Getenv); err != nil {
				return err
			}
		}
		return deploy(ctx, cluster, secrets, credentials{dir: dir, keys: keys})
	}
}

func deploy(ctx *pulumi.Context, cluster *config.Cluster, secrets *sopsfile.Secrets, files credentials) error {
	pve, talosAPI, err := providers(ctx, cluster, secrets)
	if err != nil {
		return err
	}
	image, err := talos.NewImage(ctx, "image", cluster, pulumi.Providers(talosAPI))
	if err != nil {
		return err
	}
	roots, err := talos.NewSecrets(ctx, "secrets", cluster, pulumi.Providers(talosAPI))
	if err != nil {
		return err
	}
	boot, err := proxmox.NewBootImage(ctx, "boot-image",
		proxmox.BootImageArgs{Cluster: cluster, Schematic: image.Schematic, URL: image.ISO}, pulumi.Providers(pve))
	if err != nil {
		return err
	}
	orphans, err := proxmox.NewOrphans(cluster.Proxmox, secrets.ProxmoxAPIToken.Reveal(), talos.Probe, logger(ctx))
	if err != nil {
		return err
	}
	machines, err := proxmox.NewMachines(ctx, "machines",
		proxmox.MachinesArgs{Cluster: cluster, Image: boot, Owner: roots.Owner, Orphans: orphans}, pulumi.Providers(pve))
	if err != nil {
		return err
	}
	seen := map[string]talos.Machine{}
	for name, machine := range machines.ByName {
		seen[name] = talos.Machine{Resource: machine.Resource, Addresses: machine.Addresses, Look: look(machine)}
	}
	running, err := talos.NewCluster(ctx, cluster.Name,
		talos.ClusterArgs{Cluster: cluster, Image: image, Secrets: roots, Machines: seen}, pulumi.Providers(talosAPI))
	if err != nil {
		return err
	}
	export(ctx, files, running, roots)
	ctx.Export("endpoint", pulumi.String(cluster.Endpoint.String()))
	ctx.Export("schematic", image.Schematic)
	return nil
}

func look(machine *proxmox.Machine) func(context.Context) talos.Sight {
	return func(ctx context.Context) talos.Sight { return talos.Sight(machine.Look(ctx)) }
}

// providers are explicit: a resource that forgets its provider fails instead of using whatever the environment holds.
func providers(ctx *pulumi.Context, cluster *config.Cluster, secrets *sopsfile.Secrets) (pve, talosAPI pulumi.ProviderResource, err error) {
	pve, err = proxmoxve.NewProvider(ctx, "proxmox", &proxmoxve.ProviderArgs{
		Endpoint: pulumi.String(cluster.Proxmox.Endpoint.String()),
		ApiToken: pulumi.ToSecret(pulumi.String(secrets.ProxmoxAPIToken.Reveal())).(pulumi.StringOutput),
		Insecure: pulumi.Bool(cluster.Proxmox.TLS.Insecure),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("proxmox provider: %w", err)
	}
	talosAPI, err = talosprovider.NewProvider(ctx, "talos", &talosprovider.ProviderArgs{
		ImageFactoryUrl: pulumi.String(cluster.Image.Factory.String()),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("talos provider: %w", err)
	}
	return pve, talosAPI, nil
}

// export writes the credentials and publishes them. The files' names are an output so that an error of writing them fails the run.
func export(ctx *pulumi.Context, files credentials, running *talos.Cluster, roots *talos.Secrets) {
	written := pulumi.All(running.Kubeconfig, running.Talosconfig, roots.Bundle).ApplyTWithContext(ctx.Context(),
		func(apply context.Context, all []any) ([]string, error) {
			contents := map[string]string{kubeconfig: all[0].(string), talosconfig: all[1].(string), machineSecrets: all[2].(string)}
			if ctx.DryRun() {
				return names(ctx.Stack()), nil
			}
			if _, err := files.write(apply, ctx.Stack(), contents); err != nil {
				return nil, err
			}
			return names(ctx.Stack()), nil
		}).(pulumi.StringArrayOutput)
	ctx.Export("credentials", pulumi.Unsecret(written))
	ctx.Export("kubeconfig", running.Kubeconfig)
	ctx.Export("talosconfig", running.Talosconfig)
	ctx.Export("machineSecrets", roots.Bundle)
}

func logger(ctx *pulumi.Context) func(string, ...any) {
	return func(format string, args ...any) {
		// A log line that the engine does not take is no reason to stop.
		_ = ctx.Log.Info(fmt.Sprintf(format, args...), nil)
	}
}
