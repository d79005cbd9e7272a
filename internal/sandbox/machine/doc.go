// Package machine simulates Talos Linux machines (v1.13) from the outside: what their firmware boots, which addresses they
// take, what their API answers and what survives a reboot. A [Rack] powers them for a hypervisor (it implements pve.Guests).
//
// The API is the real one: the gRPC services, configuration types, loader, validation and resource definitions of Talos'
// machinery module, behind the same split as in Talos. A front server (apid) speaks TLS on port 50000, authenticates by client
// certificate and routes by the node metadata; a server behind it (machined) authorises by role and answers.
// In maintenance mode the front server has a self-signed certificate, asks for none and grants the role os:reader.
//
// What is decided as on hardware: the boot order, Secure Boot with factory keys, key enrolment by the ISO in Setup Mode, the
// refusal of processors below x86-64-v2, talos.halt_if_installed, validation of machine configs with install disks matched
// against the machine's disks, apply modes, roles per method and per resource, etcd membership and quorum, the shared
// address (VIP), workers that wait for a control plane to sign their certificate, TPM-sealed volumes.
// Secure Boot state (PCR 7) and the TPM seal STATE, EPHEMERAL and user volumes; replacing the EFI disk or the TPM makes
// them unreadable.
//
// What is not simulated:
//   - the kubelet, containers, Kubernetes and everything that runs on it. Services and static pods report what they would
//     once etcd is up; node drain, pod removal and the Kubernetes part of the health check do nothing or fail by name;
//   - kernel, processes, files, packet capture, statistics: such calls answer Unimplemented;
//   - UDP and ICMP, routes, VLANs, bonds, bridges, KubeSpan, SideroLink, the discovery service (members know each other
//     when their cluster ID and secret are equal), time synchronisation (always in sync), network rules and DNS;
//   - image signatures: that an installer boots on a machine with Secure Boot depends on its variant only;
//   - disk contents and sizes of single partitions: volumes have a state and an approximate size;
//   - encryption by KMS, and the effect of changing the encryption of a volume that exists;
//   - etcd data, snapshots, recovery, alarms and leadership: Unimplemented;
//   - memory below Talos' minimum: noted in the log, as Talos does.
package machine
