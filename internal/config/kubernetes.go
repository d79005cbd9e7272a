package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	keyRule   = "a key as Kubernetes takes it (an optional DNS prefix and /, then up to 63 letters, digits, - _ and ., alphanumeric at both ends)"
	valueRule = "a value as Kubernetes takes it (up to 63 letters, digits, - _ and ., alphanumeric at both ends)"
)

func taintEffects() []string {
	return []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
}

func isLabelKey(key string) bool {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		prefix, name = "", key
	}

	// A label of the prefix may be longer than one of a host name.
	return isQualified(name) && (!found || len(prefix) <= maxName &&
		each(prefix, ".", func(part string) bool { return spelt(part, maxName, lowerAlnum, lowerAlnum+"-") }))
}

func isQualified(name string) bool {
	return spelt(name, maxLabel, alnum, alnum+"._-")
}

func isLabelValue(value string) bool {
	return value == "" || isQualified(value)
}

// labels checks a node's labels. A worker may not give itself every label: the API server's NodeRestriction refuses those of
// Kubernetes' own domains, and Talos would retry for ever.
func (c *checker) labels(path string, raw map[string]string, role Role) map[string]string {
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		item := join(path, key)

		switch value := raw[key]; {
		case c.isBad(item):
		case !isLabelKey(key):
			c.reject(item, key, keyRule, "")
		case !isLabelValue(value):
			c.reject(item, value, valueRule, "")
		case role == Worker && isRestricted(key):
			c.reject(item, key, "a label that Kubernetes lets a worker give itself", "use a domain of your own or node.kubernetes.io/, or label the node with kubectl")
		}
	}

	return raw
}

// isRestricted follows the API server's NodeRestriction admission plugin.
func isRestricted(key string) bool {
	prefix, _, found := strings.Cut(key, "/")
	if !found {
		return false
	}

	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }

	if !within("kubernetes.io") && !within("k8s.io") || within("node.kubernetes.io") || within("kubelet.kubernetes.io") {
		return false
	}

	return !slices.Contains([]string{
		"beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os",
		"failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
		"kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
		"topology.kubernetes.io/region", "topology.kubernetes.io/zone",
	}, key)
}

func (c *checker) taints(path string, raw []rawTaint) []Taint {
	taints := make([]Taint, 0, len(raw))

	for i, r := range raw {
		item := index(path, i)
		if c.isBad(item) {
			continue
		}

		taint := Taint{Key: or(r.Key, ""), Value: or(r.Value, ""), Effect: or(r.Effect, "")}

		if r.Key == nil {
			c.missing(join(item, "key"), keyRule, "")
		} else if !isLabelKey(taint.Key) {
			c.reject(join(item, "key"), taint.Key, keyRule, "")
		}

		if !isLabelValue(taint.Value) {
			c.reject(join(item, "value"), taint.Value, valueRule, "")
		}

		if r.Effect == nil {
			c.missing(join(item, "effect"), "an effect", choose("", taintEffects()))
		} else if !slices.Contains(taintEffects(), taint.Effect) {
			c.reject(join(item, "effect"), taint.Effect, "an effect of a taint", choose(taint.Effect, taintEffects()))
		}

		if j := slices.IndexFunc(taints, func(t Taint) bool { return t.Key == taint.Key && t.Effect == taint.Effect }); j >= 0 && r.Key != nil && r.Effect != nil {
			c.reject(join(item, "key"), taint.Key, "the only taint of its key with effect "+taint.Effect, "an earlier one has both, remove one")
		}

		taints = append(taints, taint)
	}

	if len(taints) == 0 {
		return nil
	}

	slices.SortStableFunc(taints, func(a, b Taint) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Effect, b.Effect)) })

	return taints
}

// controlPlanes checks that etcd keeps a quorum.
func (c *checker) controlPlanes(nodes []Node, given int) {
	const (
		path     = "nodes"
		expected = "a number of control planes that serves etcd's quorum"
		most     = 7
	)

	if len(nodes) != given {
		return // some could not be read
	}

	count := 0

	for _, node := range nodes {
		if c.isBad(join(join(path, node.Name), "role")) {
			return // unknown roles cannot be counted
		}

		if node.Role == ControlPlane {
			count++
		}
	}

	switch {
	case count == 0:
		c.rejectInt(path, count, expected, "give at least one node the role controlplane")
	case count > most:
		c.rejectInt(path, count, expected, "more than "+strconv.Itoa(most)+" members slow every write down without need; use 3 or 5")
	case count%2 == 0:
		c.rejectInt(path, count, expected, fmt.Sprintf("with %d members it survives no more failures than with %d, and one more machine can fail; use %d or %d",
			count, count-1, count-1, count+1))
	}
}
