package pve

import (
	"strconv"
	"sync"
	"testing"
)

// TestManyAtOnce lets the race detector see calls, tasks and helpers side by side.
func TestManyAtOnce(t *testing.T) {
	l := newLab(t)
	l.download()
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			vmid := strconv.Itoa(200 + i)
			path := "/nodes/pve/qemu/" + vmid
			for _, step := range [][]string{
				append([]string{"POST", "/nodes/pve/qemu"}, with(talosForm(200+i), "net0", "virtio,bridge=vmbr0")...),
				{"POST", path + "/status/start"},
				{"PUT", path + "/config", "cores", "2"},
				{"POST", path + "/status/reboot"},
				{"GET", "/cluster/resources"},
				{"PUT", path + "/resize", "disk", "scsi0", "size", "+1G"},
				{"POST", path + "/status/stop"},
				{"DELETE", path, "purge", "1"},
			} {
				r := l.call(step[0], step[1], step[2:]...)
				interfered := i == 3 || i == 4 // by what follows
				if r.err != nil || r.status != 200 && !interfered {
					t.Errorf("%v: %d %s %v", step[:2], r.status, r.reason, r.err)
				}
			}
		})
	}
	wait.Go(func() {
		for range 20 {
			l.Inventory()
			l.Requests()
			l.Faults()
			if _, err := l.Snapshot(); err != nil {
				t.Error(err)
			}
			l.GuestStopped(203)
			_ = l.PowerLoss(204)
		}
	})
	wait.Wait()
}
