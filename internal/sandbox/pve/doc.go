// Package pve is a simulated Proxmox VE 8.4 installation (8.4.5): the HTTPS API of one node or a cluster of nodes with
// storages, bridges, resource pools, API tokens, tasks and QEMU virtual machines. It powers simulated machines through the
// interface [Guests] and knows nothing about what runs in them.
//
// Requests are checked against Proxmox's own parameter schema (pve-api-8.4.5.json) and permissions, including those that
// Proxmox checks in code. Errors carry Proxmox's texts as reason phrases, configurations are stored as Proxmox normalises
// them, and work happens in tasks with UPIDs, logs and exit statuses. An unknown or unsimulated method answers 501 "Method … not
// implemented".
//
// A call that starts a task waits up to a second for it, so that short tasks have ended before the client's first poll. Faults
// ([Fault]) delay or break calls and tasks on purpose.
//
// # Not simulated
//
//   - Users, passwords, tickets and two-factor logins: only API tokens with privilege separation, whose user may do everything.
//     A refused login is answered at once, not after three seconds.
//   - Of the API: containers, snapshots, clones, templates, backups and restores, migration, replication, high availability,
//     firewalls, consoles, the guest agent's other commands, cloud-init drives, importing disks (import-from), moving disks,
//     copying volumes, changing storages, networks or node power, decompressing downloads, task log downloads.
//   - The extjs and html formats, and redirects: only /api2/json.
//   - What a changed CD-ROM, network device or hot-plugged disk means to a running guest: it sees the change when it is
//     powered on again. In the configuration such changes take effect at once, as in Proxmox.
//   - Load: CPU, memory, disk and network counters are constants. A thin pool is never filled by guests; [Server.SetStorageFull]
//     fills it.
//   - Hosts: memory is not shared between machines, disks have no content here (the guests keep it), and storages belong to one
//     node each.
//   - Cluster failures: every node is always online. VLAN trunks given as ranges are checked by their first tag only.
//   - Since qemu-server 8.0.7 a q35 machine starts with a CD-ROM on ide1 or ide3. The simulator refuses it, as older nodes do,
//     unless [Options].FixedQ35IDE is set.
package pve
