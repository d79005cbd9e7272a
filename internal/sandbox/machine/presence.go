package machine

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strings"

	cfgconfig "github.com/siderolabs/talos/pkg/machinery/config/config"

	"cloudlab/internal/sandbox/pve"
)

// readdress computes addresses anew and moves the API's listeners.
func (s *system) readdress() {
	var cfg cfgconfig.Config
	if p := s.config(); p != nil {
		cfg = p
	}
	a := address(s.guest.hw.NICs, cfg, s.rack.lease)
	s.mu.Lock()
	for _, problem := range a.problems {
		if !slices.Contains(s.addressing.problems, problem) {
			s.guest.printf("network: %s", problem)
		}
	}
	s.addressing = a
	s.held = slices.DeleteFunc(s.held, func(v netip.Addr) bool { return !slices.Contains(a.vips, v) })
	s.mu.Unlock()
	s.publishNetwork()
	s.front.listen()
}

// hold sets the shared addresses that the machine has won.
func (s *system) hold(vips []netip.Addr) {
	s.mu.Lock()
	same := slices.Equal(s.held, vips)
	s.held = vips
	s.mu.Unlock()
	if same {
		return
	}
	s.publishNetwork()
	s.front.listen()
}

// addresses lists everything that the machine answers on; own leaves shared addresses out.
func (s *system) addresses() (own []netip.Prefix, held []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addressing.all(), slices.Clone(s.held)
}

// primary is the address by which other machines know this one.
func (s *system) primary() netip.Addr {
	own, _ := s.addresses()
	for _, p := range own {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	if len(own) > 0 {
		return own[0].Addr()
	}
	return netip.Addr{}
}

func (s *system) hostname() string {
	if cfg := s.config(); cfg != nil {
		if h := cfg.NetworkHostnameConfig(); h != nil && h.Hostname() != "" {
			name, _, _ := strings.Cut(h.Hostname(), ".")
			return name
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256([]byte(s.nodeID))
	text := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	return "talos-" + text[:3] + "-" + text[3:6]
}

// interfaces answers for the guest agent.
func (s *system) interfaces() []pve.Interface {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []pve.Interface{{Name: "lo", MAC: "00:00:00:00:00:00", Addresses: []string{"127.0.0.1/8", "::1/128"}}}
	for i, l := range s.addressing.links {
		nic := pve.Interface{Name: l.name, MAC: l.mac.String()}
		for _, p := range l.addresses {
			nic.Addresses = append(nic.Addresses, p.String())
		}
		if i == 0 {
			for _, v := range s.held {
				nic.Addresses = append(nic.Addresses, netip.PrefixFrom(v, v.BitLen()).String())
			}
		}
		nic.Addresses = append(nic.Addresses, l.linkLocal().String())
		list = append(list, nic)
	}
	return list
}
