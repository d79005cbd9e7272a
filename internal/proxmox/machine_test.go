package proxmox

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloudlab/internal/config"
)

func TestReportedAddresses(t *testing.T) {
	const mac = "BC:24:11:00:00:01"
	tests := []struct {
		name   string
		macs   []string
		v4, v6 [][]string
		want   []string
	}{
		{name: "nothing yet", want: []string{}},
		{
			name: "loopback first", macs: []string{"00:00:00:00:00:00", mac},
			v4: [][]string{{"127.0.0.1"}, {"192.0.2.100"}}, v6: [][]string{{"::1"}, {"fe80::1"}}, want: []string{"192.0.2.100"},
		},
		{
			name: "other order, lower case", macs: []string{"bc:24:11:00:00:01", "00:00:00:00:00:00"},
			v4: [][]string{{"192.0.2.100"}, {"127.0.0.1"}}, v6: [][]string{{}, {"::1"}}, want: []string{"192.0.2.100"},
		},
		{
			name: "the CNI's devices do not count", macs: []string{mac, "AA:AA:AA:AA:AA:AA", "BB:BB:BB:BB:BB:BB"},
			v4: [][]string{{"192.0.2.11"}, {"10.244.0.1"}, {"10.244.0.7"}}, v6: [][]string{{}, {}, {}}, want: []string{"192.0.2.11"},
		},
		{
			name: "several addresses, both families", macs: []string{mac},
			v4: [][]string{{"192.0.2.11", "192.0.2.10"}}, v6: [][]string{{"2001:db8::11", "fe80::2"}},
			want: []string{"192.0.2.11", "192.0.2.10", "2001:db8::11"},
		},
		{name: "link-local only", macs: []string{mac}, v4: [][]string{{"169.254.7.7"}}, v6: [][]string{{"fe80::1"}}, want: []string{}},
		{name: "not this machine's", macs: []string{"AA:AA:AA:AA:AA:AA"}, v4: [][]string{{"192.0.2.11"}}, want: []string{}},
		{name: "shorter lists", macs: []string{"00:00:00:00:00:00", mac}, v4: [][]string{{"127.0.0.1"}}, want: []string{}},
		{name: "not an address", macs: []string{mac}, v4: [][]string{{"", "192.0.2.11/24", "192.0.2.12"}}, want: []string{"192.0.2.12"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, reportedAddresses(mac, test.macs, test.v4, test.v6)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProxmoxNodes(t *testing.T) {
	cluster := &config.Cluster{Nodes: []config.Node{{ProxmoxNode: "b"}, {ProxmoxNode: "a"}, {ProxmoxNode: "b"}}}
	if diff := cmp.Diff([]string{"b", "a"}, proxmoxNodes(cluster)); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}
