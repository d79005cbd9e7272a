package machine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
)

// wake asks for a round of coordination.
func (r *Rack) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// roundInterval spaces rounds.
const roundInterval = 2 * time.Millisecond

// retryInterval is how soon an address that someone else holds is tried again.
const retryInterval = 50 * time.Millisecond

// coordinate does what machines of a cluster do with each other: etcd membership, the shared address, discovery, and the
// signing of workers' certificates.
func (r *Rack) coordinate(ctx context.Context) {
	t := time.NewTicker(retryInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if !r.retry() {
				continue
			}
		case <-r.kick:
		}
		r.round()
		// Machines that start together ask together.
		select {
		case <-ctx.Done():
			return
		case <-time.After(roundInterval):
		}
	}
}

// retry tries busy addresses again and reports whether there was one.
func (r *Rack) retry() bool {
	any := false
	for _, s := range r.systems() {
		if s.front.pending() {
			s.front.listen()
			any = true
		}
	}
	return any
}

// systems lists the running systems by VM ID.
func (r *Rack) systems() []*system {
	r.mu.Lock()
	guests := make([]*guest, 0, len(r.guests))
	for _, g := range r.guests {
		guests = append(guests, g)
	}
	r.mu.Unlock()
	slices.SortFunc(guests, func(a, b *guest) int { return cmp.Compare(a.hw.VMID, b.hw.VMID) })
	var list []*system
	for _, g := range guests {
		if s := g.system(); s != nil {
			list = append(list, s)
		}
	}
	return list
}

// peerView is a configured machine as its cluster sees it.
type peerView struct {
	sys *system
	cfg config.Provider
	key string
	// ready is true while containers can run, so that etcd may.
	ready        bool
	controlPlane bool
	// discovers is true when the machine takes part in discovery.
	discovers bool
	volume    string
}

// clusterKey tells clusters apart: by ID and secret.
func clusterKey(cfg config.Provider) string {
	return digest(cfg.Cluster().ID() + "\n" + cfg.Cluster().Secret() + "\n" + cfg.Cluster().Name())
}

func (r *Rack) peers() []peerView {
	var list []peerView
	for _, s := range r.systems() {
		cfg := s.completeConfig()
		if cfg == nil {
			continue
		}
		s.mu.Lock()
		ready := s.criUp
		rebooting := s.rebooting
		s.mu.Unlock()
		if rebooting {
			continue
		}
		list = append(list, peerView{
			sys: s, cfg: cfg, key: clusterKey(cfg), ready: ready, controlPlane: cfg.Machine().Type().IsControlPlane(),
			discovers: cfg.Cluster().Discovery().Enabled(), volume: s.ephemeralVolume(),
		})
	}
	return list
}

// ephemeralVolume is the disk that holds EPHEMERAL, where etcd keeps its data.
func (s *system) ephemeralVolume() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.id == constants.EphemeralPartitionLabel && v.err == nil && v.disk != nil {
			return v.disk.volume
		}
	}
	return ""
}

func (r *Rack) round() {
	peers := r.peers()
	r.signWorkers(peers)
	r.runEtcd(peers)
	r.electVIPs(peers)
	described := make([]member, len(peers))
	for i, p := range peers {
		described[i] = describeMember(p)
	}
	for _, p := range peers {
		p.sys.publishCluster(members(p, peers, described))
		p.sys.publishServices()
	}
}

// signWorkers gives a certificate to workers once a control plane of their cluster answers (trustd).
func (r *Rack) signWorkers(peers []peerView) {
	for _, w := range peers {
		if w.controlPlane || w.sys.front.running() {
			continue
		}
		if ca := signer(w, peers); ca != nil {
			if err := w.sys.openAPI(ca); err != nil {
				w.sys.guest.printf("apid: %v", err)
			}
		}
	}
}

func signer(w peerView, peers []peerView) *x509.PEMEncodedCertificateAndKey {
	wanted := w.cfg.Machine().Security()
	for _, p := range peers {
		have := p.cfg.Machine().Security()
		if p.controlPlane && p.ready && have.Token() == wanted.Token() && have.IssuingCA() != nil && wanted.IssuingCA() != nil &&
			bytes.Equal(have.IssuingCA().Crt, wanted.IssuingCA().Crt) {
			return have.IssuingCA()
		}
	}
	return nil
}

// runEtcd joins control planes to their cluster and tells every one whether its etcd serves.
func (r *Rack) runEtcd(peers []peerView) {
	up := map[*system]bool{}
	r.store.with(func(snap *snapshot) {
		for _, p := range peers {
			if p.controlPlane && p.ready && p.volume != "" {
				snap.join(p, peers)
			}
		}
		for _, p := range peers {
			v := snap.etcdData(p)
			up[p.sys] = p.controlPlane && v != nil && snap.member(v) && snap.quorum(v.EtcdGeneration, peers)
		}
	})
	for _, p := range peers {
		p.sys.mu.Lock()
		p.sys.etcdUp = up[p.sys]
		p.sys.mu.Unlock()
	}
}

// etcdData is the EPHEMERAL volume of a running machine when etcd has data there.
func (s *snapshot) etcdData(p peerView) *volumeState {
	if !p.ready || p.volume == "" {
		return nil
	}
	v := s.disk(p.volume).Volumes[constants.EphemeralPartitionLabel]
	if v == nil || v.EtcdMember == 0 {
		return nil
	}
	return v
}

func (s *snapshot) member(v *volumeState) bool {
	c := s.Etcd[v.EtcdGeneration]
	return c != nil && c.has(v.EtcdMember)
}

// quorum is true when more than half of a generation's members run.
func (s *snapshot) quorum(generation string, peers []peerView) bool {
	c := s.Etcd[generation]
	if c == nil {
		return false
	}
	alive := 0
	for _, p := range peers {
		if v := s.etcdData(p); v != nil && v.EtcdGeneration == generation && c.has(v.EtcdMember) {
			alive++
		}
	}
	return alive > len(c.Members)/2
}

// join adds a control plane without etcd data to its cluster, if one with quorum runs.
func (s *snapshot) join(p peerView, peers []peerView) {
	v := s.disk(p.volume).Volumes[constants.EphemeralPartitionLabel]
	if v == nil || v.EtcdMember != 0 {
		return
	}
	for generation, c := range s.Etcd {
		if c.Key != p.key || !s.quorum(generation, peers) {
			continue
		}
		// A member of that name is this machine before its disk was replaced.
		name := p.sys.hostname()
		if slices.ContainsFunc(c.Members, func(m etcdMember) bool { return m.Hostname == name }) {
			p.sys.warnOnce(fmt.Sprintf("etcd: member %q exists already; remove it first (talosctl etcd remove-member)", name))
			return
		}
		m := etcdMember{ID: memberID(), Hostname: name, Peer: p.sys.primary().String()}
		c.Members = append(c.Members, m)
		v.EtcdGeneration, v.EtcdMember = generation, m.ID
		p.sys.guest.printf("etcd: joined the cluster as member %x", m.ID)
		return
	}
}

// electVIPs gives each shared address to one control plane with etcd; the holder keeps it while it lives.
func (r *Rack) electVIPs(peers []peerView) {
	holders := map[string]*system{}
	won := map[*system][]netip.Addr{}
	wants := func(p peerView) []netip.Addr {
		p.sys.mu.Lock()
		defer p.sys.mu.Unlock()
		if !p.sys.etcdUp {
			return nil
		}
		return slices.Clone(p.sys.addressing.vips)
	}
	for _, p := range peers {
		_, held := p.sys.addresses()
		wanted := wants(p)
		for _, v := range held {
			key := p.key + v.String()
			if holders[key] == nil && slices.Contains(wanted, v) {
				holders[key] = p.sys
				won[p.sys] = append(won[p.sys], v)
			}
		}
	}
	for _, p := range peers {
		for _, v := range wants(p) {
			key := p.key + v.String()
			if holders[key] == nil {
				holders[key] = p.sys
				won[p.sys] = append(won[p.sys], v)
			}
		}
	}
	// Losers let go before winners take, since an address has one owner.
	for _, p := range peers {
		if len(won[p.sys]) == 0 {
			p.sys.hold(nil)
		}
	}
	for _, p := range peers {
		if len(won[p.sys]) > 0 {
			p.sys.hold(won[p.sys])
		}
	}
}

// members are the machines that discovery shows to one of them.
func members(of peerView, peers []peerView, described []member) []member {
	if !of.cfg.Cluster().Discovery().Enabled() {
		return nil
	}
	var list []member
	for i, p := range peers {
		if p.key == of.key && p.discovers {
			list = append(list, described[i])
		}
	}
	return list
}

// bootstrap founds the etcd cluster of a control plane. It returns false when etcd has data already.
func (r *Rack) bootstrap(s *system) (bool, error) {
	cfg := s.completeConfig()
	volume := s.ephemeralVolume()
	if cfg == nil || volume == "" {
		return false, fmt.Errorf("VM %d: EPHEMERAL is not ready", s.guest.hw.VMID)
	}
	m := etcdMember{ID: memberID(), Hostname: s.hostname(), Peer: s.primary().String()}
	fresh := false
	r.store.with(func(snap *snapshot) {
		v := snap.disk(volume).Volumes[constants.EphemeralPartitionLabel]
		if v == nil || v.EtcdMember != 0 {
			return
		}
		v.EtcdGeneration, v.EtcdMember = snap.found(clusterKey(cfg), m), m.ID
		fresh = true
	})
	if fresh {
		s.guest.printf("etcd: bootstrapped a new cluster as member %x", m.ID)
		r.wake()
	}
	return fresh, nil
}
