package machine

import (
	"crypto/rand"
	"encoding/binary"
	"slices"

	"github.com/google/uuid"
)

// etcdCluster is an etcd cluster's member list. A generation outlives its members' power cycles.
type etcdCluster struct {
	// Key is the Talos cluster that it belongs to: its ID and secret, hashed.
	Key     string       `json:"key"`
	Members []etcdMember `json:"members"`
}

type etcdMember struct {
	ID       uint64 `json:"id"`
	Hostname string `json:"hostname"`
	// Peer is the member's address.
	Peer string `json:"peer"`
}

func memberID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

// found makes a new cluster of one member and returns its generation.
func (s *snapshot) found(key string, m etcdMember) string {
	generation := uuid.NewString()
	s.Etcd[generation] = &etcdCluster{Key: key, Members: []etcdMember{m}}
	return generation
}

// leave removes a member; the last one's leaving ends the cluster.
func (s *snapshot) leave(generation string, id uint64) {
	c, ok := s.Etcd[generation]
	if !ok {
		return
	}
	c.Members = slices.DeleteFunc(c.Members, func(m etcdMember) bool { return m.ID == id })
	if len(c.Members) == 0 {
		delete(s.Etcd, generation)
	}
}

func (c *etcdCluster) has(id uint64) bool {
	return slices.ContainsFunc(c.Members, func(m etcdMember) bool { return m.ID == id })
}
