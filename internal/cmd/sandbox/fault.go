package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cloudlab/internal/sandbox"
)

func (o *settings) faultCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "fault", Short: "Make things go wrong on purpose: list, add, clear"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the armed faults as JSON, one a line", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, remote, err := o.connect(cmd.Context())
				if err != nil {
					return err
				}
				status, err := remote.Status(cmd.Context())
				if err != nil {
					return err
				}
				enc := json.NewEncoder(o.out)
				for _, fault := range status.Faults {
					if err := enc.Encode(fault); err != nil {
						return err
					}
				}
				return nil
			},
		},
		&cobra.Command{
			Use: "add FAULT", Short: "Arm a fault and print its ID", Args: cobra.ExactArgs(1),
			Long: `Arm a fault, given as JSON, and print its ID.

Proxmox API, by method, path and nth call: status, reason, delay, drop, taskDelay, taskExit, agentSilent, linkLocalOnly.
Talos API, by gRPC method and nth call: code, message, delay, drop.`,
			Example: `  fault add '{"proxmox": {"method": "POST", "path": "/nodes/*/qemu", "nth": 1, "status": 500, "reason": "got no worker upid"}}'
  fault add '{"proxmox": {"path": "/nodes/*/qemu/*/status/start", "taskExit": "WARNINGS: 1"}}'
  fault add '{"proxmox": {"path": "/nodes/*/qemu/*/agent/**", "agentSilent": true, "times": 3}}'
  fault add '{"talos": {"method": "/machine.MachineService/Bootstrap", "code": "UNAVAILABLE", "times": 2}}'
  fault add '{"powerLoss": 101}'
  fault add '{"storageFull": "local-lvm"}'
  fault add '{"tokenRevoked": true}'`,
			RunE: func(cmd *cobra.Command, args []string) error {
				_, remote, err := o.connect(cmd.Context())
				if err != nil {
					return err
				}
				var fault sandbox.Fault
				dec := json.NewDecoder(strings.NewReader(args[0]))
				dec.DisallowUnknownFields()
				if err := dec.Decode(&fault); err != nil {
					return fmt.Errorf("fault: %w: `fault add --help` shows examples", err)
				}
				id, err := remote.AddFault(cmd.Context(), fault)
				if err != nil {
					return err
				}
				fmt.Fprintln(o.out, id)
				return nil
			},
		},
		o.clearCommand(),
	)
	return cmd
}

func (o *settings) clearCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "clear [ID]", Short: "Disarm a fault, or --all", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("fault clear: give one ID, as `fault list` shows it, or --all")
			}
			_, remote, err := o.connect(cmd.Context())
			if err != nil {
				return err
			}
			return remote.ClearFault(cmd.Context(), strings.Join(args, ""))
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "disarm all faults")
	return cmd
}
