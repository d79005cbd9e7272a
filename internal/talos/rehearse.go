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
	// reachWait bounds the wait for a node's API, which an installation and a reboot keep away for a while; bootWait that for a machine
	// which has been waited for before, rehearseWait that for the answer to a config.
	reachWait = 3 * time.Minute
	bootWait  = time.Minute
	// lostWait is after how long a machine that waits for its first config is not about to install any more.
	lostWait     = 15 * time.Second
	rehearseWait = 30 * time.Second

	correctConfig = "correct the node's settings or patches in the stack's configuration, then run up again"
)

// rehearsal is the hook before a config is applied: it waits for the node and applies the config as a dry run. The provider
// would go on for ten minutes after almost any error, and say nothing while it does.
type rehearsal struct {
	look func(context.Context) Sight
	wait time.Duration // for the node's API
	// again is true when the machine has been given its config before. One that still waits for its first lost the power while
	// it installed, and is given it again.
	again bool
}

func (r rehearsal) beforeApply(args *pulumi.ResourceHookArgs) error {
	if err := r.rehearse(args); err != nil {
		return fmt.Errorf("%s: %w", args.Name, err)
	}
	return nil
}

func (r rehearsal) rehearse(args *pulumi.ResourceHookArgs) error {
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
	if err := r.reach(ctx, target, machineConfig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rehearseWait)
	defer cancel()
	trust := configured
	if unconfigured(ctx, target) {
		trust = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a machine in maintenance mode has no identity yet
	}
	return insist(ctx, "machine config for "+target, correctConfig, trust, target, func(ctx context.Context, c *client.Client) error {
		_, err := c.ApplyConfiguration(client.WithNode(ctx, node), &machineapi.ApplyConfigurationRequest{
			Data: []byte(machineConfig), Mode: machineapi.ApplyConfigurationRequest_AUTO, DryRun: true,
		})
		return err
	})
}

// reach waits for the Talos API, unless the machine is off.
func (r rehearsal) reach(ctx context.Context, target, machineConfig string) error {
	sight := Sight{Place: "machine"}
	for begin, stopped := time.Now(), 0; time.Since(begin) < r.wait; {
		if _, ok := firstReachable(ctx, []string{target}, contactTry); ok {
			return nil
		}
		if r.look == nil {
			continue
		}
		sight = r.look(ctx)
		if r.again && time.Since(begin) > lostWait {
			if err := installAgain(ctx, sight.Addresses, machineConfig); err != nil {
				return err
			}
		}
		if !sight.Stopped {
			stopped = 0
			continue
		}
		// Once may be a restart.
		if stopped++; stopped == 2 {
			return fmt.Errorf("no Talos API at %s: %s is stopped: find out why, then run refresh, which sees it, and up, which starts it",
				target, sight.Place)
		}
	}
	return fmt.Errorf("no Talos API at %s after %s: look at the console of %s in Proxmox; if it runs under another address, "+
		"run refresh, so that the guest agent is asked again, and then up", target, r.wait, sight.Place)
}

// installAgain gives a machine its config when it waits for its first one.
func installAgain(ctx context.Context, addresses []string, machineConfig string) error {
	ctx, cancel := context.WithTimeout(ctx, rehearseWait)
	defer cancel()
	for _, address := range addresses {
		target := endpoint(address)
		if !unconfigured(ctx, target) {
			continue
		}
		anybody := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a machine in maintenance mode has no identity yet
		return insist(ctx, "machine config for "+target, correctConfig, anybody, target, func(ctx context.Context, c *client.Client) error {
			_, err := c.ApplyConfiguration(ctx, &machineapi.ApplyConfigurationRequest{
				Data: []byte(machineConfig), Mode: machineapi.ApplyConfigurationRequest_AUTO,
			})
			return err
		})
	}
	return nil
}
