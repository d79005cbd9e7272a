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
		privilege, want string
	}{
		// Proxmox does not say which of the alternatives it wanted.
		{"Sys.AccessNetwork", "Error initiating file download"},
		{"Datastore.AllocateTemplate", "Datastore.AllocateTemplate"},
		{"VM.Config.CPU", "VM.Config.CPU"},
		{"VM.PowerMgmt", "VM.PowerMgmt"},
	} {
		t.Run(test.privilege, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(o *sandbox.Options) {
				o.Privileges = slices.DeleteFunc(pve.MinimalRole(), func(p string) bool { return p == test.privilege })
			})
			r := l.run("up")
			if r.err == nil {
				t.Fatalf("up succeeded without %s: %v", test.privilege, r.summary)
			}
			for _, want := range []string{"Permission check failed", test.want} {
				if !strings.Contains(r.output, want) {
					t.Errorf("the error does not say %q:\n%s", want, tail(r.output, 40))
				}
			}
		})
	}
}
