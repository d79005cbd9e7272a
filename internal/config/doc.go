// Package config is what an operator may configure: types, defaults, strict decoding and validation.
//
// A configuration has three sections: proxmox (access to the hypervisor), cluster (what all nodes share) and nodes (a map
// from name to node). [Load] reads them from a Pulumi stack, [ParseStackFile] from the bytes of a Pulumi.<stack>.yaml,
// and [Parse] from JSON; each returns a [Cluster] that is complete, defaulted and valid, or an [InvalidError] with all
// defects at once. docs/configuration.md describes every key.
//
// The package opens no file and no connection, and knows no provider: whether a storage, a bridge or a release exists is
// found out later. It holds no secrets; those come from secrets.enc.json. Only load.go knows Pulumi.
package config
