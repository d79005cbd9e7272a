// Package proxmox is the layer that puts machines on Proxmox VE: the boot image on every node's ISO datastore, and the
// virtual machines that boot it.
//
// It knows nothing of Talos but that the image is a SecureBoot ISO. Everything a machine needs for it is set explicitly, because
// the provider's defaults (SeaBIOS, qemu64, ide3, qcow2, a 2 MiB EFI disk) do not boot Talos.
package proxmox
