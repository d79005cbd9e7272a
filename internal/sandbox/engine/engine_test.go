package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
)

func TestChanges(t *testing.T) {
	tests := []struct {
		summary Summary
		want    int
	}{
		{nil, 0},
		{Summary{apitype.OpSame: 15, apitype.OpRead: 2}, 0},
		{Summary{apitype.OpSame: 12, apitype.OpCreate: 1, apitype.OpUpdate: 2, apitype.OpDelete: 3}, 6},
	}
	for _, test := range tests {
		if got := test.summary.Changes(); got != test.want {
			t.Errorf("%v: %d changes, want %d", test.summary, got, test.want)
		}
	}
}

// TestTrim: what a person reads is one line with the cause and the next step, not both streams of the command.
func TestTrim(t *testing.T) {
	const urn = "urn:pulumi:sandbox::cloudlab::cloudlab:proxmox:Machines$proxmoxve:VM/virtualMachine:VirtualMachine::cp-1"
	tests := []struct {
		name, text string
		want       []string
	}{
		{"plain", "failed to run update: exit status 255\ncode: 255\nstdout: much", []string{"failed to run update: exit status 255"}},
		{"privilege", "exit status 255\nreceived an HTTP 403 response - Reason: Permission check failed (/vms/101, VM.Config.CPU)", []string{"lacks VM.Config.CPU on /vms/101"}},
		{"token", "exit status 255\nreceived an HTTP 401 response - Reason: no such user", []string{"refuses the API token", "secrets.enc.json"}},
		{"replacement", fmt.Sprintf("exit status 255\nunable to replace resource %q as it is currently marked for protection.", urn), []string{
			"cp-1 (proxmoxve:VM/virtualMachine:VirtualMachine)", "protect: false",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := trim(errors.New(test.text)).Error()
			if strings.Contains(got, "\n") {
				t.Errorf("more than one line: %q", got)
			}
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q lacks %q", got, want)
				}
			}
		})
	}
	if err := trim(fmt.Errorf("up: %w", context.Canceled)); !errors.Is(err, context.Canceled) {
		t.Errorf("an interruption became %v", err)
	}
	var refusal *ProtectedError
	text := fmt.Sprintf("resource %q cannot be deleted\nbecause it is protected. resource %q cannot be deleted\nbecause it is protected.", urn, urn)
	if !errors.As(trim(errors.New(text)), &refusal) {
		t.Fatal("a refusal is not told apart")
	}
	if diff := cmp.Diff([]string{"cp-1 (proxmoxve:VM/virtualMachine:VirtualMachine)"}, refusal.Resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
}
