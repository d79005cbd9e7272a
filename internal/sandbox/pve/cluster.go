package pve

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

func rootIndex(*call) (any, error) {
	list := []map[string]any{}
	for _, name := range []string{"access", "cluster", "nodes", "pools", "storage", "version"} {
		list = append(list, map[string]any{"subdir": name})
	}
	return list, nil
}

func version(*call) (any, error) {
	return map[string]any{"release": "8.4", "version": "8.4.5", "repoid": "57892e8e686cb35b"}, nil
}

func accessPermissions(c *call) (any, error) {
	if user := c.params["userid"]; user != "" && user != c.user {
		if err := c.require("/access", "Sys.Audit"); err != nil {
			return nil, err
		}
		return nil, die("permissions of other users are not simulated")
	}
	path := c.params["path"]
	if path != "" && !strings.HasPrefix(path, "/") {
		return nil, paramError("path", "invalid ACL path '%s'", path)
	}
	return c.effectivePermissions(path), nil
}

// nextID is GET /cluster/nextid.
func nextID(c *call) (any, error) {
	machines := c.server.state.Machines
	if vmid := c.vmid(); vmid != 0 {
		if machines[vmid] != nil {
			return nil, paramError("vmid", "VM %d already exists", vmid)
		}
		return strconv.Itoa(vmid), nil
	}
	for vmid := 100; vmid < 1000*1000; vmid++ {
		if machines[vmid] == nil {
			return strconv.Itoa(vmid), nil
		}
	}
	return nil, die("unable to get any free VMID in range [100, 1000000]")
}

// clusterResources is GET /cluster/resources.
func clusterResources(c *call) (any, error) {
	kind := c.params["type"]
	list := []map[string]any{}
	if kind == "" {
		for _, name := range sortedKeys(c.server.state.Pools) {
			if c.may("/pool/"+name, "Pool.Audit") {
				list = append(list, map[string]any{"id": "/pool/" + name, "pool": name, "type": "pool"})
			}
		}
	}
	if kind == "" || kind == "vm" {
		list = append(list, c.machineResources()...)
	}
	if kind == "" || kind == "node" {
		for _, node := range c.server.options.Nodes {
			list = append(list, c.nodeEntry(node))
		}
	}
	if kind == "" || kind == "storage" {
		list = append(list, c.storageResources()...)
	}
	if kind == "" || kind == "sdn" {
		for _, node := range c.server.options.Nodes {
			if c.requireAny("/sdn/zones/localnetwork", "SDN.Audit", "SDN.Use") == nil {
				list = append(list, map[string]any{
					"id": "sdn/" + node + "/localnetwork", "node": node, "sdn": "localnetwork", "type": "sdn", "status": "ok",
				})
			}
		}
	}
	return list, nil
}

func (c *call) machineResources() []map[string]any {
	var list []map[string]any
	for _, m := range c.server.machines("") {
		if !c.may("/vms/"+strconv.Itoa(m.VMID), "VM.Audit") {
			continue
		}
		entry := c.machineResource(m)
		for name, p := range c.server.state.Pools {
			if p.Machines[m.VMID] && c.may("/pool/"+name, "Pool.Audit") {
				entry["pool"] = name
			}
		}
		list = append(list, entry)
	}
	return list
}

func (c *call) machineResource(m *machine) map[string]any {
	status := c.server.summary(m)
	entry := map[string]any{"id": fmt.Sprintf("qemu/%d", m.VMID), "type": "qemu", "node": m.Node, "maxcpu": status["cpus"], "template": 0}
	for _, name := range []string{
		"vmid", "name", "status", "uptime", "cpu", "mem", "maxmem", "disk", "maxdisk", "netin", "netout", "diskread", "diskwrite", "lock", "tags", "template",
	} {
		if item, ok := status[name]; ok {
			entry[name] = item
		}
	}
	return entry
}

func (c *call) storageResources() []map[string]any {
	var list []map[string]any
	for _, node := range c.server.options.Nodes {
		for _, name := range sortedKeys(c.server.storages) {
			if c.requireAny("/storage/"+name, "Datastore.Audit", "Datastore.AllocateSpace") != nil {
				continue
			}
			storage := c.server.storages[name]
			list = append(list, map[string]any{
				"id": "storage/" + node + "/" + name, "storage": name, "node": node, "type": "storage", "plugintype": storage.Type,
				"status": "available", "shared": 0, "content": strings.Join(storage.Content, ","),
				"maxdisk": storage.Bytes, "disk": c.server.used(node, storage),
			})
		}
	}
	return list
}

// nodeEntry is a node in lists. Its load is shown to those who may audit it.
func (c *call) nodeEntry(node string) map[string]any {
	entry := map[string]any{"id": "node/" + node, "node": node, "type": "node", "status": "online", "level": "", "cgroup-mode": 2}
	if !c.may("/nodes/"+node, "Sys.Audit") {
		return entry
	}
	maps.Copy(entry, map[string]any{
		"uptime": c.server.uptime(), "cpu": 0.01, "maxcpu": c.server.options.CPUs, "mem": c.server.memoryUsed(node),
		"maxmem": c.server.options.Memory, "disk": int64(8 << 30), "maxdisk": int64(100 << 30),
	})
	return entry
}

func (s *Server) uptime() int64 { return int64(s.options.Now().Sub(s.started).Seconds()) + 1 }

// memoryUsed counts the running machines' memory and two GiB of the node's own.
func (s *Server) memoryUsed(node string) int64 {
	used := int64(2 << 30)
	for _, m := range s.machines(node) {
		if m.running() {
			used += int64(m.memory(m.Config["memory"])) << 20
		}
	}
	return min(used, s.options.Memory)
}

func nodeList(c *call) (any, error) {
	list := []map[string]any{}
	for _, node := range c.server.options.Nodes {
		entry := c.nodeEntry(node)
		entry["ssl_fingerprint"] = fingerprint(node)
		delete(entry, "cgroup-mode")
		list = append(list, entry)
	}
	return list, nil
}

// fingerprint is a made-up one: the certificate is the consumer's.
func fingerprint(node string) string {
	text := strings.ToUpper(digest(node) + digest(node + "/")[:24])
	var parts []string
	for pair := range slices.Chunk([]byte(text), 2) {
		parts = append(parts, string(pair))
	}
	return strings.Join(parts, ":")
}

func nodeStatus(c *call) (any, error) {
	s := c.server
	used, total := s.memoryUsed(c.node), s.options.Memory
	disk, free := int64(100<<30), int64(92<<30)
	return map[string]any{
		"uptime": s.uptime(), "idle": 0, "cpu": 0.01, "wait": 0, "loadavg": []string{"0.10", "0.10", "0.10"},
		"kversion":       "Linux 6.8.12-11-pve #1 SMP PREEMPT_DYNAMIC PMX 6.8.12-11 (2025-05-22T09:39Z)",
		"current-kernel": map[string]any{"sysname": "Linux", "release": "6.8.12-11-pve", "version": "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-11 (2025-05-22T09:39Z)", "machine": "x86_64"},
		"boot-info":      map[string]any{"mode": "efi", "secureboot": 0},
		"cpuinfo": map[string]any{
			"cpus": s.options.CPUs, "cores": s.options.CPUs, "sockets": 1, "model": "Simulated CPU", "mhz": "3000.000", "hvm": "1", "user_hz": 100, "flags": "vmx aes",
		},
		"memory":     map[string]any{"total": total, "used": used, "free": total - used},
		"swap":       map[string]any{"total": int64(8 << 30), "used": 0, "free": int64(8 << 30)},
		"ksm":        map[string]any{"shared": 0},
		"rootfs":     map[string]any{"total": disk, "used": disk - free, "avail": free, "free": free},
		"pveversion": "pve-manager/8.4.5/57892e8e686cb35b",
	}, nil
}

func clusterStatus(c *call) (any, error) {
	nodes := c.server.options.Nodes
	list := []map[string]any{}
	if len(nodes) > 1 {
		list = append(list, map[string]any{
			"id": "cluster", "type": "cluster", "name": "sandbox", "nodes": len(nodes), "quorate": 1, "version": len(nodes),
		})
	}
	for i, node := range nodes {
		id := 0
		if len(nodes) > 1 {
			id = i + 1
		}
		list = append(list, map[string]any{
			"id": "node/" + node, "type": "node", "name": node, "nodeid": id, "online": 1, "local": truth(i == 0), "level": "",
			"ip": fmt.Sprintf("192.0.2.%d", 2+i),
		})
	}
	return list, nil
}

func networkList(c *call) (any, error) {
	list := []map[string]any{}
	wanted := c.params["type"]
	if wanted == "" || wanted == "eth" {
		list = append(list, map[string]any{
			"iface": "eno1", "type": "eth", "exists": 1, "active": 1, "method": "manual", "method6": "manual", "families": []string{"inet"}, "priority": 3,
		})
	}
	bridges := slices.Clone(c.server.options.Bridges)
	slices.Sort(bridges)
	for i, bridge := range bridges {
		match := wanted == "" || wanted == "bridge" || wanted == "any_bridge" || wanted == "any_local_bridge"
		if !match || c.requireAny("/sdn/zones/localnetwork/"+bridge, "SDN.Audit", "SDN.Use") != nil {
			continue
		}
		entry := map[string]any{
			"iface": bridge, "type": "bridge", "active": 1, "autostart": 1, "method": "manual", "method6": "manual",
			"families": []string{"inet"}, "bridge_stp": "off", "bridge_fd": "0", "bridge_ports": "", "priority": 4 + i,
		}
		if bridge == c.server.options.Bridges[0] {
			maps.Copy(entry, map[string]any{
				"method": "static", "bridge_ports": "eno1", "netmask": "24", "gateway": "192.0.2.1",
				"address": fmt.Sprintf("192.0.2.%d", 2+slices.Index(c.server.options.Nodes, c.node)),
			})
			entry["cidr"] = entry["address"].(string) + "/24"
		}
		list = append(list, entry)
	}
	return list, nil
}
