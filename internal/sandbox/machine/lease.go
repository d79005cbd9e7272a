package machine

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
)

// lease hands out a machine's DHCP address. It depends on the MAC address alone unless that address is taken.
func (r *Rack) lease(mac string) (netip.Prefix, error) {
	mac = strings.ToLower(mac)
	pool := r.options.Pool
	var found netip.Addr
	r.store.with(func(s *snapshot) {
		taken := map[string]bool{}
		for owner, addr := range s.Leases {
			if owner == mac {
				found, _ = netip.ParseAddr(addr)
				if found.IsValid() {
					return
				}
			}
			taken[addr] = true
		}
		size := distance(pool.First, pool.Last) + 1
		h := fnv.New64a()
		_, _ = h.Write([]byte(mac))
		start := h.Sum64() % size
		for i := range size {
			addr := advance(pool.First, (start+i)%size)
			if !taken[addr.String()] {
				s.Leases[mac] = addr.String()
				found = addr
				return
			}
		}
	})
	if !found.IsValid() {
		return netip.Prefix{}, fmt.Errorf("no DHCP lease for %s: the pool %s to %s is used up", mac, pool.First, pool.Last)
	}
	return netip.PrefixFrom(found, pool.Bits), nil
}

// distance and advance work on the low 64 bits of an address, which spans any sensible pool.
func distance(from, to netip.Addr) uint64 {
	return low(to) - low(from)
}

func low(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

func advance(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	moved := netip.AddrFrom16(b)
	if a.Is4() {
		return moved.Unmap()
	}
	return moved
}
