package config

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 64)

	tests := []struct {
		name      string
		valid     func(string) bool
		good, bad []string
	}{
		{"DNS label", isDNSLabel, []string{"a", "cp-1", "0", long[:63]}, []string{"", "A", "-a", "a-", "a.b", "a_b", long}},
		{"host", isHost, []string{"pve", "PVE.example.com", "example.com.", "192.0.2.1", "2001:db8::1", "1.pool.example"}, []string{"", ".", "a..b", "192.0.2.256", "10", "fe80::1%eth0", "a b", "-a", long}},
		{"Proxmox node", isPVENode, []string{"pve", "PVE-2"}, []string{"", "pve.lan", "-pve"}},
		{"storage", isPVEStorage, []string{"local", "local-lvm", "nas.1_a"}, []string{"", "a", "1a", "a-", "a b", "a/b"}},
		{"bridge", isPVEBridge, []string{"vmbr0", "eth0.20", "a_b-c"}, []string{"", "vmbr0:1", "abcdefghijklmnop"}},
		{"pool", isPVEPool, []string{"lab", "a/b/c", "a.b"}, []string{"", "/", "a/", "a/b/c/d", "a b"}},
		{"tag", isPVETag, []string{"talos", "_a", "a+b.c-d", "a-"}, []string{"", "-a", "+a", "a b", "a;b"}},
		{"label key", isLabelKey, []string{"a", "example.com/a", "A_b.c-d", "a.b/C"}, []string{"", "/a", "a/", "a/b/c", "Example.com/a", "a..b/c", "-a", long}},
		{"label value", isLabelValue, []string{"", "a", "A_b.c-d", long[:63]}, []string{"-", "a b", "a/b", long}},
		{"device", isDevice, []string{"/dev/sda", "/dev/disk/by-id/scsi-0QEMU"}, []string{"", "/dev/", "/dev/../etc", "/dev//sda", "sda", "/devsda"}},
		{"version", isVersion, []string{"v1.13.9", "v0.0.0"}, []string{"", "1.13.9", "v1.13", "v1.13.9.1", "v1.013.9", "v1.13.9-rc.1", "v1..9", "v99999.1.1"}},
		{"host and port", hostPort, []string{"127.0.0.1:50000", "[2001:db8::1]:1", "a.b:65535"}, []string{"", ":1", "a", "a:", "a:0", "a:65536", "a:b", "2001:db8::1:1"}},
		{"CPU type", func(s string) bool {
			c := newChecker()
			c.cpuType("", &s)

			return len(c.defects) == 0
		}, []string{"host", "x86-64-v3", "custom-mine"}, []string{"", "custom-", "custom-a,b", "HOST", "EPYC-Genoa", "kvm64"}},
	}

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range test.good {
				if !test.valid(s) {
					t.Errorf("%q is refused", s)
				}
			}

			for _, s := range test.bad {
				if test.valid(s) {
					t.Errorf("%q is accepted", s)
				}
			}
		})
	}
}

func TestWholeDisk(t *testing.T) {
	for path, want := range map[string]string{
		"/dev/sda": "/dev/sda", "/dev/sda1": "/dev/sda", "/dev/vdb12": "/dev/vdb", "/dev/nvme0n1": "/dev/nvme0n1",
		"/dev/nvme0n1p3": "/dev/nvme0n1", "/dev/disk/by-id/x-drive-scsi0": "/dev/disk/by-id/x-drive-scsi0",
	} {
		if got := wholeDisk(path); got != want {
			t.Errorf("wholeDisk(%s) = %s, want %s", path, got, want)
		}
	}
}
