// Package talos is the layer that turns running machines into a bootstrapped Talos cluster: the schematic of the image they boot,
// the machine secrets, a machine config per node (small patches named by intent, see patches), first contact, day-2
// configuration, bootstrap and credentials.
//
// It knows machines by their addresses only, not what they run on.
package talos
