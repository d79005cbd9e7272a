package e2e

import (
	"testing"
)

func TestLifecycle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.must(changes{"create": 15}, "preview")
	l.must(changes{"create": 15}, "up")
	l.must(changes{"same": 15}, "up")
	l.must(changes{"same": 15}, "refresh")
	l.must(nil, "destroy")
	if left := l.Proxmox.Inventory(); len(left.Machines)+len(left.Volumes) > 0 {
		t.Errorf("left after destroy: %+v", left)
	}
}
