// Package sandbox is the hardware-free lab: simulated Proxmox VE (pve), simulated Talos machines (machine), a simulated Image Factory
// (factory) and the network they live on (lan), wired together and kept in one folder.
//
// It knows the program only by the wire: it never imports the stack or a layer. What each part does not simulate stands in that
// part's package doc. Everything listens on loopback.
package sandbox
