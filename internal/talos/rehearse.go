package talos

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/client"
)

const (
	// reachWait bounds the wait for a node's API, which an installation and a reboot keep away for a while; rehearseWait that for its
	// answer to a config.
	reachWait    = 3 * time.Minute
	rehearseWait = 30 * time.Second
)

// rehearseApply is the hook before a config is applied: it waits for the node and applies the config as a dry run. The provider
// would go on for ten minutes after almost any error, and say nothing while it does.
func rehearseApply(args *pulumi.ResourceHookArgs) error {
	if err := rehearse(args); err != nil {
		return fmt.Errorf("%s: %w", args.Name, err)
	}
	return nil
}

func rehearse(args *pulumi.ResourceHookArgs) error {
	target, err := text(args.NewInputs, "endpoint")
	if err != nil {
		return err
	}
	node, err := text(args.NewInputs, "node")
	if err != nil {
		return err
	}
	machineConfig, err := text(args.NewInputs, "machineConfigurationInput")
	if err != nil {
		return err
	}
	configured, err := credentials(plain(args.NewInputs["clientConfiguration"]))
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, ok := firstReachable(ctx, []string{target}, reachWait); !ok {
		return fmt.Errorf("no Talos API at %s after %s: look at the machine's console in Proxmox; if it runs under another address, "+
			"run refresh, so that the guest agent is asked again, and then up", target, reachWait)
	}
	ctx, cancel := context.WithTimeout(ctx, rehearseWait)
	defer cancel()
	trust := configured
	if unconfigured(ctx, target) {
		trust = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a machine in maintenance mode has no identity yet
	}
	return insist(ctx, "machine config for "+target, trust, target, func(ctx context.Context, c *client.Client) error {
		_, err := c.ApplyConfiguration(client.WithNode(ctx, node), &machineapi.ApplyConfigurationRequest{
			Data: []byte(machineConfig), Mode: machineapi.ApplyConfigurationRequest_AUTO, DryRun: true,
		})
		return err
	})
}
