package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox"
)

func (o *settings) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Show the simulated hardware: machines, volumes, faults", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, remote, err := o.connect(cmd.Context())
			if err != nil {
				return err
			}
			status, err := remote.Status(cmd.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(o.out)
				enc.SetIndent("", "  ")
				return enc.Encode(status)
			case "text":
				return printStatus(o.out, status)
			default:
				return fmt.Errorf("--output %q: expected text or json", output)
			}
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func printStatus(w io.Writer, s sandbox.Status) error {
	fmt.Fprintf(w, "hardware  process %d, up %s, network behind %s\n", s.PID, time.Since(s.Since).Round(time.Second), s.Proxy)
	fmt.Fprintf(w, "proxmox   https://%s, %d VMs, %d volumes\n\n", sandbox.ProxmoxAddress, len(s.Inventory.Machines), len(s.Inventory.Volumes))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VM\tNAME\tNODE\tPHASE\tROLE\tTALOS\tADDRESSES\tSECUREBOOT\tNOTE")
	nodes := map[int]string{}
	for _, m := range s.Inventory.Machines {
		nodes[m.VMID] = m.Node
	}
	for _, m := range s.Machines {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%v\t%s\n", m.VMID, m.Name, nodes[m.VMID], m.Phase, or(m.Role, "-"), or(m.Version, "-"),
			or(strings.Join(m.Addresses, ","), "-"), m.SecureBoot, m.Note)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, fault := range s.Faults {
		text, err := json.Marshal(fault)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "fault     %s\n", text)
	}
	return nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
