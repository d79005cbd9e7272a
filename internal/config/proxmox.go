package config

import (
	"slices"
	"strconv"
	"strings"
)

const (
	defaultProxmoxNode = "pve"
	defaultBridge      = "vmbr0"
	defaultISOStore    = "local"
	defaultDiskStore   = "local-lvm"
)

func defaultTags() []string {
	return []string{"cloudlab", "talos"}
}

func (c *checker) proxmox(raw rawProxmox) Proxmox {
	var p Proxmox

	if raw.Endpoint == nil {
		c.missing("proxmox.endpoint", "an HTTPS address", "write the one of the web interface, such as https://pve.example.com:8006")
	} else {
		p.Endpoint = c.httpsURL("proxmox.endpoint", *raw.Endpoint, "")
	}

	p.TLS = c.tls(raw.TLS)
	p.Datastores = c.datastores(raw.Datastores)

	const bridge = "the name of a network bridge (up to 15 letters, digits, dots, dashes and underscores)"

	network := raw.Network
	p.Bridge = c.name("proxmox.network.bridge", network.Bridge, isPVEBridge, bridge, defaultBridge)
	p.VLAN = c.number("proxmox.network.vlan", network.VLAN, 1, 4094, 0, "", "remove the key for untagged traffic")
	p.MTU = or(network.MTU, 0)

	if network.MTU != nil && p.MTU != 1 && (p.MTU < 576 || p.MTU > 65520) {
		c.rejectInt("proxmox.network.mtu", p.MTU, "an MTU from 576 to 65520 (or 1 for the bridge's own)", "")
	}

	p.Pool = c.name("proxmox.pool", raw.Pool, isPVEPool,
		"the name of a resource pool (letters, digits, dots, dashes and underscores; up to three levels with /)", "")
	p.Tags = c.tags(raw.Tags)

	return p
}

func (c *checker) tls(raw rawTLS) TLS {
	t := TLS{CAFile: or(raw.CAFile, ""), Insecure: or(raw.Insecure, false)}

	switch {
	case raw.CAFile != nil && strings.TrimSpace(t.CAFile) == "":
		c.reject("proxmox.tls.caFile", t.CAFile, "a file name", "remove the key to trust the system's CAs")
	case t.CAFile != "" && t.Insecure:
		c.add(Defect{
			Path: "proxmox.tls.insecure", Value: strconv.FormatBool(t.Insecure),
			Expected:   "allowed together with caFile " + strconv.Quote(t.CAFile),
			Suggestion: "remove insecure to verify the certificate with that CA, or remove caFile to verify nothing",
		})
	}

	return t
}

func (c *checker) datastores(raw rawDatastores) Datastores {
	const expected = "the name of a storage (at least two letters, digits, dots, dashes and underscores; a letter first, a letter or digit last)"

	var d Datastores

	d.ISO = c.name("proxmox.datastores.iso", raw.ISO, isPVEStorage, expected, defaultISOStore)
	d.Disk = c.name("proxmox.datastores.disk", raw.Disk, isPVEStorage, expected, defaultDiskStore)
	d.EFI = c.name("proxmox.datastores.efi", raw.EFI, isPVEStorage, expected, d.Disk)
	d.TPM = c.name("proxmox.datastores.tpm", raw.TPM, isPVEStorage, expected, d.Disk)

	return d
}

// tags come out lower-case and sorted, as Proxmox stores them; otherwise each refresh would report a change.
func (c *checker) tags(raw []string) []string {
	if raw == nil {
		return defaultTags()
	}

	tags := make([]string, 0, len(raw))

	for i, tag := range raw {
		path := index("proxmox.tags", i)
		lower := strings.ToLower(tag)

		switch {
		case c.isBad(path):
		case !isPVETag(lower):
			c.reject(path, tag, "a tag (letters, digits and _, then also + . -)", "")
		case slices.Contains(tags, lower):
			c.reject(path, tag, "given once", "remove it")
		default:
			tags = append(tags, lower)
		}
	}

	slices.Sort(tags)

	return tags
}
