// Package stack is the Pulumi program: it reads the configuration and the secrets, moves data between the layers (proxmox, talos)
// and is the only place that exports.
//
// Everything that can be checked without a network is checked before the first resource is registered.
package stack
