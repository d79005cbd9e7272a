package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/pve"
)

// otherStorage is a second storage for VM disks, where the default installation has one.
const otherStorage = "other-lvm"

func withOtherStorage(o *sandbox.Options) {
	o.Storages = append(pve.DefaultStorages(),
		pve.Storage{Name: otherStorage, Type: "lvmthin", Content: []string{"images"}, Bytes: 100 << 30, VolumeGroup: "other"})
}

// TestProtection: what cannot be rebuilt is neither replaced nor destroyed, and the refusal says what to do.
func TestProtection(t *testing.T) {
	t.Parallel()
	l := newLab(t, withOtherStorage)
	protected := func() *configuration {
		c := sandboxStack(t)
		c.cluster["protect"] = true
		return c
	}
	l.mustWith(protected(), changes{"create": 15}, "up")
	before := l.state()
	for _, test := range []struct {
		name   string
		change func(*configuration)
		// images: a new boot image is fetched before the machine refuses.
		images bool
	}{
		{name: "vmId", change: func(c *configuration) { c.node("cp-1")["vmId"] = 102 }},
		{name: "proxmoxNode", change: func(c *configuration) { c.node("cp-1")["proxmoxNode"] = "pve2" }, images: true},
		{name: "datastores.efi", change: func(c *configuration) { c.proxmox["datastores"] = object{"efi": otherStorage} }},
		{name: "datastores.tpm", change: func(c *configuration) { c.proxmox["datastores"] = object{"tpm": otherStorage} }},
		{name: "mac", change: func(c *configuration) { c.node("cp-1")["mac"] = "BC:24:11:00:00:01" }},
		// Another name is another cluster: the derived MAC addresses change too.
		{name: "cluster name", change: func(c *configuration) { c.cluster["name"] = "other" }, images: true},
	} {
		c := protected()
		test.change(c)
		l.mustRefuse(c, "preview", "cp-1 (proxmoxve:VM/virtualMachine:VirtualMachine)", test.name)
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Fatalf("%s: the refused preview changed something (-before +after):\n%s", test.name, diff)
		}
		if test.images {
			continue // the preview has refused; what an up does in spite of it is tested below
		}
		l.mustRefuse(c, "up", "cp-1 (proxmoxve:VM/virtualMachine:VirtualMachine)", test.name)
		if diff := cmp.Diff(before, l.state()); diff != "" {
			t.Fatalf("%s: the refused up changed something (-before +after):\n%s", test.name, diff)
		}
	}

	l.mustRefuse(protected(), "destroy", "kubeconfig (talos:cluster/kubeconfig:Kubeconfig)", "destroy")
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Fatalf("the refused destroy changed something (-before +after):\n%s", diff)
	}
	l.mustWith(protected(), changes{"same": 15}, "up")

	// On purpose, and in this order, it can be done.
	open := protected()
	open.cluster["protect"] = false
	l.mustWith(open, changes{"same": 15}, "up")
	l.mustWith(open, changes{"delete": 15}, "destroy")
	l.mustBeEmpty()
}

// TestProtectionAfterImages: a refused up that fetched a boot image first leaves the machine alone, and going back heals.
func TestProtectionAfterImages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := sandboxStack(t)
	c.cluster["protect"] = true
	l.mustWith(c, changes{"create": 15}, "up")
	before := l.state()
	c.cluster["name"] = "other"
	l.mustRefuse(c, "up", "cp-1 (proxmoxve:VM/virtualMachine:VirtualMachine)", "cluster name")
	after := l.state()
	if diff := cmp.Diff(before.Machines, after.Machines); diff != "" {
		t.Errorf("machines (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before.Logs, after.Logs); diff != "" {
		t.Errorf("machines' logs (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before.Credentials, after.Credentials); diff != "" {
		t.Errorf("credentials (-before +after):\n%s", diff)
	}
	c.cluster["name"] = "sandbox"
	l.mustWith(c, nil, "up")
	l.mustWith(c, changes{"same": 15}, "up")
	if diff := cmp.Diff(before.Volumes, l.state().Volumes); diff != "" {
		t.Errorf("volumes after going back (-before +after):\n%s", diff)
	}
}

// TestRename: with MAC addresses of their own, the machines of a renamed cluster stay, and so does the way back.
func TestRename(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := sandboxStack(t)
	c.cluster["protect"] = true
	c.node("cp-1")["mac"] = "BC:24:11:00:00:01"
	l.mustWith(c, changes{"create": 15}, "up")
	disks, secrets := l.disks(), l.decrypted("machine-secrets")
	for _, name := range []string{"other", "sandbox"} {
		c.cluster["name"] = name
		l.mustWith(c, nil, "up")
		l.mustWith(c, changes{"same": 15}, "up")
		if diff := cmp.Diff(disks, l.disks()); diff != "" {
			t.Errorf("disks (-before +after):\n%s", diff)
		}
		if !bytes.Equal(secrets, l.decrypted("machine-secrets")) {
			t.Error("the machine secrets were replaced")
		}
	}
}

// mustRefuse runs an operation that protection has to refuse, naming the resource and the way out.
func (l *lab) mustRefuse(c *configuration, operation, resource, why string) {
	l.t.Helper()
	r := l.refused(c, operation)
	for _, want := range []string{"refused, because it would replace or delete what is protected", resource, "undo the change", "`protect: false`"} {
		if !strings.Contains(r.output, want) {
			l.t.Fatalf("%s: the refusal of %s does not say %q:\n%s", why, operation, want, tail(r.output, 40))
		}
	}
}
