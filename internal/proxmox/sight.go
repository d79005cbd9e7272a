package proxmox

import (
	"context"
	"fmt"

	"cloudlab/internal/config"
)

// Sight is what Proxmox tells about a machine now, other than its resource, which tells what was when it was last read.
type Sight struct {
	// Place names the machine for people: VM 101 on Proxmox node "pve".
	Place string
	// Stopped is true when the machine is certainly off.
	Stopped bool
	// Addresses are those that its guest agent reports; none when it does not answer.
	Addresses []string
}

// sight asks Proxmox. A machine about which it does not answer is neither stopped nor has it addresses.
func (o *Orphans) sight(ctx context.Context, node config.Node) Sight {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	machine := orphan{node: node.ProxmoxNode, vmid: node.VMID}
	seen := Sight{Place: fmt.Sprintf("VM %d on Proxmox node %q", node.VMID, node.ProxmoxNode)}
	var status struct {
		Status string `json:"status"`
	}
	if err := o.client.Get(ctx, machine.path("/status/current"), &status); err != nil {
		return seen
	}
	seen.Stopped = status.Status == "stopped"
	if !seen.Stopped {
		seen.Addresses = o.addresses(ctx, machine, node.MAC)
	}
	return seen
}
