package machine

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"

	"cloudlab/internal/sandbox/pve"
)

func TestAddressing(t *testing.T) {
	const v1 = "version: v1alpha1\nmachine:\n  type: worker\n  network:\n    interfaces:\n"
	for _, test := range []struct {
		name, config string
		want         []string
		vips         []string
		problem      string
	}{
		{name: "no configuration", want: []string{"192.0.2.100/24"}},
		{name: "no network section", config: "version: v1alpha1\nmachine: {type: worker}\n", want: []string{"192.0.2.100/24"}},
		{
			name: "static by name", config: v1 + "      - {interface: enp6s18, addresses: [192.0.2.11/24]}\n",
			want: []string{"192.0.2.11/24"},
		},
		{
			name:   "static by MAC with a shared address",
			config: v1 + "      - {deviceSelector: {hardwareAddr: 'bc:24:11:*'}, addresses: [192.0.2.11/24], vip: {ip: 192.0.2.10}}\n",
			want:   []string{"192.0.2.11/24"}, vips: []string{"192.0.2.10"},
		},
		{
			name: "static and DHCP", config: v1 + "      - {deviceSelector: {driver: virtio_net}, dhcp: true, addresses: [192.0.2.11/24]}\n",
			want: []string{"192.0.2.11/24", "192.0.2.100/24"},
		},
		{
			name: "another name", config: v1 + "      - {interface: eth0, addresses: [192.0.2.11/24]}\n",
			want: []string{"192.0.2.100/24"}, problem: `interface "eth0" matches no network device`,
		},
		{name: "ignored", config: v1 + "      - {interface: enp6s18, ignore: true}\n"},
		{
			name:   "LinkConfig",
			config: "apiVersion: v1alpha1\nkind: LinkConfig\nname: enp6s18\naddresses: [{address: 192.0.2.11/24}]\n",
			want:   []string{"192.0.2.11/24"},
		},
		{
			name: "LinkConfig by alias",
			config: "apiVersion: v1alpha1\nkind: LinkAliasConfig\nname: net0\nselector: {match: 'mac(link.hardware_addr) == \"bc:24:11:00:00:01\"'}\n---\n" +
				"apiVersion: v1alpha1\nkind: LinkConfig\nname: net0\naddresses: [{address: 192.0.2.11/24}]\n",
			want: []string{"192.0.2.11/24"},
		},
		{
			name: "DHCPv4Config and Layer2VIPConfig",
			config: "apiVersion: v1alpha1\nkind: DHCPv4Config\nname: enp6s18\n---\n" +
				"apiVersion: v1alpha1\nkind: Layer2VIPConfig\nname: 192.0.2.10\nlink: enp6s18\n",
			want: []string{"192.0.2.100/24"}, vips: []string{"192.0.2.10"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			lease := func(string) (netip.Prefix, error) { return netip.MustParsePrefix("192.0.2.100/24"), nil }
			nics := []pve.NIC{{MAC: "BC:24:11:00:00:01"}}
			a := address(nics, nil, lease)
			if test.config != "" {
				cfg, err := configloader.NewFromBytes([]byte(test.config))
				if err != nil {
					t.Fatal(err)
				}
				a = address(nics, cfg, lease)
			}
			var got, vips []string
			for _, p := range a.all() {
				got = append(got, p.String())
			}
			for _, v := range a.vips {
				vips = append(vips, v.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.vips, vips); diff != "" {
				t.Errorf("shared addresses (-want +got):\n%s", diff)
			}
			if text := strings.Join(a.problems, "\n"); !strings.Contains(text, test.problem) || (test.problem == "") != (text == "") {
				t.Errorf("problems %q", text)
			}
		})
	}
}

func TestLinkLocal(t *testing.T) {
	l, err := links([]pve.NIC{{MAC: "BC:24:11:00:00:01"}})
	if err != nil || l[0].linkLocal().String() != "fe80::be24:11ff:fe00:1/64" {
		t.Errorf("%v %v", l, err)
	}
}
