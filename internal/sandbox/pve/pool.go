package pve

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

func (c *call) pool() (*pool, error) {
	name := c.params["poolid"]
	if p := c.server.state.Pools[name]; p != nil {
		return p, nil
	}
	return nil, die("pool '%s' does not exist", name)
}

func poolList(c *call) (any, error) {
	if c.params["poolid"] != "" {
		info, err := poolRead(c)
		if err != nil {
			return nil, err
		}
		return []any{info}, nil
	}
	list := []map[string]any{}
	for _, name := range sortedKeys(c.server.state.Pools) {
		if !c.may("/pool/"+name, "Pool.Audit") {
			continue
		}
		entry := map[string]any{"poolid": name}
		if comment := c.server.state.Pools[name].Comment; comment != "" {
			entry["comment"] = comment
		}
		list = append(list, entry)
	}
	return list, nil
}

func poolRead(c *call) (any, error) {
	p, err := c.pool()
	if err != nil {
		return nil, err
	}
	members := []map[string]any{}
	kind := c.params["type"]
	for _, vmid := range slices.Sorted(maps.Keys(p.Machines)) {
		if m := c.server.state.Machines[vmid]; m != nil && (kind == "" || kind == "qemu") {
			members = append(members, c.machineResource(m))
		}
	}
	for _, name := range sortedKeys(p.Storages) {
		if storage, ok := c.server.storages[name]; ok && (kind == "" || kind == "storage") {
			node := c.server.options.Nodes[0]
			members = append(members, map[string]any{
				"id": "storage/" + node + "/" + name, "type": "storage", "storage": name, "node": node, "status": "available",
				"maxdisk": storage.Bytes, "disk": c.server.used(node, storage), "plugintype": storage.Type, "shared": 0,
				"content": strings.Join(storage.Content, ","),
			})
		}
	}
	info := map[string]any{"poolid": c.params["poolid"], "members": members}
	if p.Comment != "" {
		info["comment"] = p.Comment
	}
	return info, nil
}

func poolCreate(c *call) (any, error) {
	name, pools := c.params["poolid"], c.server.state.Pools
	if pools[name] != nil {
		return nil, die("create pool failed: pool '%s' already exists", name)
	}
	if cut := strings.LastIndex(name, "/"); cut >= 0 && pools[name[:cut]] == nil {
		return nil, die("create pool failed: parent '%s' of pool '%s' does not exist", name[:cut], name)
	}
	pools[name] = &pool{Comment: c.params["comment"], Machines: map[int]bool{}, Storages: map[string]bool{}}
	return nil, nil
}

func poolUpdate(c *call) (any, error) {
	p, err := c.pool()
	if err != nil {
		return nil, die("update pools failed: %v", err)
	}
	if comment, ok := c.params["comment"]; ok {
		p.Comment = comment
	}
	remove := c.params["delete"] == "1"
	for _, text := range splitList(c.params["vms"]) {
		if err := c.movePoolMachine(p, atoi(text), remove); err != nil {
			return nil, err
		}
	}
	for _, name := range splitList(c.params["storage"]) {
		if err := c.requireAny("/storage/"+name, "Permissions.Modify", "Datastore.Allocate"); err != nil {
			return nil, err
		}
		switch {
		case remove && !p.Storages[name]:
			return nil, die("update pools failed: Storage '%s' is not a pool member", name)
		case remove:
			delete(p.Storages, name)
		case p.Storages[name]:
			return nil, die("update pools failed: Storage '%s' is already a pool member", name)
		default:
			p.Storages[name] = true
		}
	}
	return nil, nil
}

func (c *call) movePoolMachine(p *pool, vmid int, remove bool) error {
	if err := c.requireAny("/vms/"+strconv.Itoa(vmid), "Permissions.Modify", "VM.Allocate"); err != nil {
		return err
	}
	if remove {
		if !p.Machines[vmid] {
			return die("update pools failed: VM %d is not a pool member", vmid)
		}
		delete(p.Machines, vmid)
		return nil
	}
	if p.Machines[vmid] {
		return die("update pools failed: VM %d is already a pool member", vmid)
	}
	for name, other := range c.server.state.Pools {
		if !other.Machines[vmid] {
			continue
		}
		if c.params["allow-move"] != "1" {
			return die("update pools failed: VM %d belongs already to pool '%s' and 'allow-move' is not set", vmid, name)
		}
		if err := c.require("/pool/"+name, "Pool.Allocate"); err != nil {
			return err
		}
		delete(other.Machines, vmid)
	}
	p.Machines[vmid] = true
	return nil
}

func poolDelete(c *call) (any, error) {
	p, err := c.pool()
	if err != nil {
		return nil, die("delete pool failed: %v", err)
	}
	name, pools := c.params["poolid"], c.server.state.Pools
	for _, other := range sortedKeys(pools) {
		if strings.HasPrefix(other, name+"/") {
			return nil, die("delete pool failed: pool '%s' is not empty (contains pool '%s')", name, other)
		}
	}
	for _, vmid := range slices.Sorted(maps.Keys(p.Machines)) {
		if c.server.state.Machines[vmid] != nil {
			return nil, die("delete pool failed: pool '%s' is not empty (contains VM %d)", name, vmid)
		}
	}
	for _, storage := range sortedKeys(p.Storages) {
		return nil, die("delete pool failed: pool '%s' is not empty (contains storage '%s')", name, storage)
	}
	delete(pools, name)
	return nil, nil
}
