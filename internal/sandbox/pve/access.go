package pve

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Token is an API token with privilege separation: it may do what its access list says and nothing else.
type Token struct {
	// Secret is the value after the = sign.
	Secret string `json:"secret"`
	// Administrator gives every privilege on every path, as a token of root@pam without privilege separation has.
	// Proxmox still refuses it what is reserved for root itself.
	Administrator bool `json:"administrator,omitempty"`
	// ACL are the token's permissions.
	ACL []ACL `json:"acl,omitempty"`
}

// ACL grants privileges (a role) on a path of Proxmox's object tree, such as /vms/101 or /storage/local.
// An entry on a deeper path replaces what was inherited, as in Proxmox.
type ACL struct {
	Path       string   `json:"path"`
	Privileges []string `json:"privileges"`
	// NoPropagate limits the entry to the path itself.
	NoPropagate bool `json:"noPropagate,omitempty"`
}

// Grant makes a token that holds one role on the whole installation.
func Grant(secret string, privileges ...string) Token {
	return Token{Secret: secret, ACL: []ACL{{Path: "/", Privileges: privileges}}}
}

// MinimalRole lists the privileges that are exactly enough on PVE 8 to download and delete an ISO image and to create, start,
// change, resize, reboot and delete virtual machines through an API token, granted on / with propagation.
func MinimalRole() []string {
	return []string{
		// Deleting an ISO image needs Allocate; AllocateTemplate is only enough to download one.
		"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate",
		"SDN.Use",
		// Instead of Sys.Audit and Sys.Modify on / for downloads.
		"Sys.AccessNetwork",
		"VM.Allocate", "VM.Audit",
		"VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Disk", "VM.Config.HWType",
		"VM.Config.Memory", "VM.Config.Network", "VM.Config.Options",
		"VM.Monitor", "VM.PowerMgmt",
	}
}

// Privileges lists every privilege of PVE 8.4.
func Privileges() []string {
	return []string{
		"Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit",
		"Group.Allocate", "Mapping.Audit", "Mapping.Modify", "Mapping.Use", "Permissions.Modify",
		"Pool.Allocate", "Pool.Audit", "Realm.Allocate", "Realm.AllocateUser",
		"SDN.Allocate", "SDN.Audit", "SDN.Use",
		"Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog",
		"User.Modify",
		"VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone",
		"VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.HWType",
		"VM.Config.Memory", "VM.Config.Network", "VM.Config.Options",
		"VM.Console", "VM.Migrate", "VM.Monitor", "VM.PowerMgmt", "VM.Snapshot", "VM.Snapshot.Rollback",
	}
}

var tokenIDPattern = regexp.MustCompile(`^([^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+)!([A-Za-z][A-Za-z0-9.\-_]+)$`)

func (t Token) validate(id string) error {
	if !tokenIDPattern.MatchString(id) {
		return fmt.Errorf("token %q: want user@realm!name", id)
	}
	if t.Secret == "" {
		return fmt.Errorf("token %q: secret is empty", id)
	}
	known := Privileges()
	for _, entry := range t.ACL {
		if !strings.HasPrefix(entry.Path, "/") {
			return fmt.Errorf("token %q: ACL path %q: want a leading slash", id, entry.Path)
		}
		for _, privilege := range entry.Privileges {
			if !slices.Contains(known, privilege) {
				return fmt.Errorf("token %q: PVE 8.4 knows no privilege %q", id, privilege)
			}
		}
	}
	return nil
}

// authenticate returns the token ID of an Authorization header.
func (s *Server) authenticate(header string) (string, error) {
	credentials, ok := strings.CutPrefix(header, "PVEAPIToken=")
	if !ok {
		return "", unauthorized("No ticket")
	}
	cut := strings.LastIndex(credentials, "=")
	if cut < 0 {
		return "", unauthorized("no tokenid specified")
	}
	id, secret := credentials[:cut], credentials[cut+1:]
	match := tokenIDPattern.FindStringSubmatch(id)
	if match == nil {
		return "", unauthorized("'%s' is not a valid token ID - not able to split into user and token parts", id)
	}
	token, ok := s.tokens[id]
	if !ok || s.state.Revoked[id] {
		for other := range s.tokens {
			if strings.HasPrefix(other, match[1]+"!") {
				return "", unauthorized("no such token '%s' for user '%s'", match[2], match[1])
			}
		}
		return "", unauthorized("no such user ('%s')", match[1])
	}
	if token.Secret != secret {
		return "", unauthorized("invalid token value!")
	}
	return id, nil
}

// privileges gives what a token may do on a path; the value says whether it would be inherited by deeper paths.
func (s *Server) privileges(user, path string) map[string]bool {
	token := s.tokens[user]
	if token.Administrator {
		all := map[string]bool{}
		for _, privilege := range Privileges() {
			all[privilege] = true
		}
		return all
	}
	held := token.privileges(path)
	for name, pool := range s.state.Pools {
		if !pool.contains(path) {
			continue
		}
		for privilege := range token.privileges("/pool/" + name) {
			if _, ok := held[privilege]; !ok {
				held[privilege] = false
			}
		}
	}
	return held
}

func (t Token) privileges(path string) map[string]bool {
	parts := splitPath(path)
	held := map[string]bool{}
	for depth := 0; depth <= len(parts); depth++ {
		prefix := "/" + strings.Join(parts[:depth], "/")
		var found map[string]bool
		for _, entry := range t.ACL {
			if "/"+strings.Join(splitPath(entry.Path), "/") != prefix || entry.NoPropagate && depth < len(parts) {
				continue
			}
			if found == nil {
				found = map[string]bool{}
			}
			for _, privilege := range entry.Privileges {
				found[privilege] = found[privilege] || !entry.NoPropagate
			}
		}
		if found != nil {
			held = found
		}
	}
	return held
}

// require fails unless the caller holds all privileges on path.
func (c *call) require(path string, privileges ...string) error {
	held := c.server.privileges(c.user, path)
	for _, privilege := range privileges {
		if _, ok := held[privilege]; !ok {
			return permissionError(path + ", " + privilege)
		}
	}
	return nil
}

// requireAny fails unless the caller holds one of the privileges on path.
func (c *call) requireAny(path string, privileges ...string) error {
	held := c.server.privileges(c.user, path)
	for _, privilege := range privileges {
		if _, ok := held[privilege]; ok {
			return nil
		}
	}
	return permissionError(path + ", " + strings.Join(privileges, "|"))
}

func (c *call) may(path string, privileges ...string) bool {
	return c.require(path, privileges...) == nil
}

// permissions says who may call a method: everyone who is logged in, or who passes a check.
type permissions struct {
	User  string `json:"user"`
	Check *check `json:"check"`
}

// check is a node of a permission expression.
type check struct {
	kind       string
	nested     []*check // and, or
	path       string   // perm
	privileges []string
	any        bool
}

func (k *check) UnmarshalJSON(raw []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	if len(parts) == 0 {
		return fmt.Errorf("empty permission check")
	}
	if err := json.Unmarshal(parts[0], &k.kind); err != nil {
		return err
	}
	switch {
	case k.kind == "and" || k.kind == "or":
		for _, part := range parts[1:] {
			nested := &check{}
			if err := json.Unmarshal(part, nested); err != nil {
				return err
			}
			k.nested = append(k.nested, nested)
		}
		return nil
	case k.kind == "perm" && len(parts) >= 3:
		k.any = len(parts) > 3
		if err := json.Unmarshal(parts[1], &k.path); err != nil {
			return err
		}
		return json.Unmarshal(parts[2], &k.privileges)
	case k.kind == "userid-group" && len(parts) >= 2:
		return json.Unmarshal(parts[1], &k.privileges)
	}
	return fmt.Errorf("permission check %q is not supported", k.kind)
}

func (c *call) permitted(p *permissions, params map[string]value) error {
	switch {
	case p == nil:
		return permissionError("user != root@pam")
	case p.User == "all":
		return nil
	case p.Check == nil:
		return permissionError("")
	}
	return c.evaluate(p.Check, params)
}

func (c *call) evaluate(k *check, params map[string]value) error {
	switch k.kind {
	case "and":
		for _, nested := range k.nested {
			if err := c.evaluate(nested, params); err != nil {
				return err
			}
		}
		return nil
	case "or":
		for _, nested := range k.nested {
			if c.evaluate(nested, params) == nil {
				return nil
			}
		}
		return permissionError("")
	case "userid-group":
		// No groups are simulated, so only the permission on all of them can hold.
		if c.requireAny("/access/groups", k.privileges...) != nil {
			return permissionError("")
		}
		return nil
	}
	path := k.path
	for name, v := range params {
		path = strings.ReplaceAll(path, "{"+name+"}", v.text)
	}
	if k.any {
		return c.requireAny(path, k.privileges...)
	}
	return c.require(path, k.privileges...)
}

// effectivePermissions lists what the caller holds, for GET /access/permissions.
func (c *call) effectivePermissions(path string) map[string]map[string]int {
	paths := map[string]bool{}
	if path != "" {
		paths[path] = true
	} else {
		for _, top := range []string{"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"} {
			paths[top] = true
		}
		for _, entry := range c.server.tokens[c.user].ACL {
			paths["/"+strings.Join(splitPath(entry.Path), "/")] = true
		}
		for _, pool := range c.server.state.Pools {
			for _, member := range pool.paths() {
				paths[member] = true
			}
		}
	}
	result := map[string]map[string]int{}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		held := map[string]int{}
		for privilege, propagates := range c.server.privileges(c.user, p) {
			held[privilege] = truth(propagates)
		}
		if len(held) > 0 {
			result[p] = held
		}
	}
	return result
}

// truth is Perl's boolean in JSON.
func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
