package e2e

import (
	"slices"
	"strings"
	"testing"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/pve"
)

// TestMinimalRole: nothing in the role is there in vain. That it is enough is what every other test shows, since it is what
// the sandbox grants.
func TestMinimalRole(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		privilege, operation string
		// instead is granted in its place, to get as far as the operation that needs the privilege.
		instead string
		want    string
	}{
		// Proxmox does not say which of the alternatives it wanted.
		{privilege: "Sys.AccessNetwork", operation: "up", want: "Error initiating file download"},
		{privilege: "VM.Config.CPU", operation: "up", want: "VM.Config.CPU"},
		{privilege: "VM.PowerMgmt", operation: "up", want: "VM.PowerMgmt"},
		// Reading volumes needs it or Audit, deleting an ISO needs it alone.
		{privilege: "Datastore.Allocate", instead: "Datastore.Audit", operation: "destroy", want: "Datastore.Allocate"},
	} {
		t.Run(test.privilege, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(o *sandbox.Options) {
				o.Privileges = slices.DeleteFunc(pve.MinimalRole(), func(p string) bool { return p == test.privilege })
				if test.instead != "" {
					o.Privileges = append(o.Privileges, test.instead)
				}
			})
			if test.operation == "destroy" {
				l.must(changes{"create": 15}, "up")
			}
			r := l.run(test.operation)
			if r.err == nil {
				t.Fatalf("%s succeeded without %s: %v", test.operation, test.privilege, r.summary)
			}
			for _, want := range []string{"Permission check failed", test.want} {
				if !strings.Contains(r.output, want) {
					t.Errorf("the error does not say %q:\n%s", want, tail(r.output, 40))
				}
			}
		})
	}
}
