package machine

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Image is a Talos build as the Image Factory makes it: the content of an ISO or of an installer.
type Image struct {
	// Schematic is the factory's schematic ID (64 hex digits).
	Schematic string `json:"schematic"`
	// Version carries its leading v, e.g. v1.13.9.
	Version string `json:"version"`
	// SecureBoot is true when kernel and boot loader are signed with the factory's keys.
	SecureBoot bool `json:"secureBoot"`
	// Extensions are the system extensions by full name, e.g. siderolabs/qemu-guest-agent.
	Extensions []string `json:"extensions,omitempty"`
}

// GuestAgent is the extension that lets the hypervisor read a machine's addresses.
const GuestAgent = "siderolabs/qemu-guest-agent"

func (i Image) has(extension string) bool {
	for _, e := range i.Extensions {
		if e == extension {
			return true
		}
	}
	return false
}

// Network is where machines listen and dial, e.g. a *lan.LAN.
type Network interface {
	Listen(hostport string) (net.Listener, error)
	DialContext(ctx context.Context, network, hostport string) (net.Conn, error)
}

// Pool is what the network's DHCP server hands out: the addresses First to Last, with the prefix length Bits.
type Pool struct {
	First, Last netip.Addr
	Bits        int
}

// Timing says how long a machine takes. Zero fields get a default of a few tens of milliseconds.
type Timing struct {
	// Boot is firmware and kernel, once per boot.
	Boot time.Duration
	// Install is pulling the installer and writing the disk.
	Install time.Duration
	// BootstrapDelay passes between the first answer of a configured machine's API and the moment it accepts Bootstrap.
	BootstrapDelay time.Duration
	// Stop is stopping services before a reboot or shutdown.
	Stop time.Duration
}

// Node describes a configured machine to the hooks in [Options].
type Node struct {
	VMID         int
	Hostname     string
	Address      netip.Addr
	ControlPlane bool
	// Config is the machine configuration (YAML) in force. It holds secrets.
	Config []byte
}

// Options configure a [Rack]. Its functions are called from the machines' own goroutines: they return soon and do not power
// machines, except for OnStopped, which may.
type Options struct {
	// LAN carries the machines' APIs. Required.
	LAN Network
	// ReadISO tells what a boot medium on the host's file system holds. Required to boot ISOs.
	ReadISO func(path string) (Image, error)
	// Installer resolves an installer's image reference; an error is a failed pull. Required to install.
	Installer func(ref string) (Image, error)
	// Pool defaults to 192.0.2.100 to 192.0.2.199 in a /24.
	Pool   Pool
	Timing Timing
	// Now is the clock of timestamps; default time.Now. Certificates always follow the real time.
	Now func() time.Time
	// Log receives every machine's log; default none.
	Log *slog.Logger
	// OnStopped tells the hypervisor that a guest has powered itself off (an API shutdown). It is not called for
	// PowerOff and Shutdown of the [Rack].
	OnStopped func(vmid int)
	// OnConfigure is called when a machine runs a complete configuration: after each boot and each change.
	OnConfigure func(Node)
	// OnBootstrap is called when a control plane has bootstrapped a new etcd cluster; the call answers when it returns.
	OnBootstrap func(Node)
	// CheckKubernetes does the Kubernetes part of the server-side health check for the cluster of this node; without it
	// that part answers Unimplemented.
	CheckKubernetes func(ctx context.Context, node Node) error
}

func (o Options) withDefaults() (Options, error) {
	if o.LAN == nil {
		return o, errors.New("simulated machines: no network given (Options.LAN)")
	}
	if o.ReadISO == nil {
		o.ReadISO = func(string) (Image, error) {
			return Image{}, errors.New("no reader of boot media given (Options.ReadISO)")
		}
	}
	if o.Installer == nil {
		o.Installer = func(string) (Image, error) { return Image{}, errors.New("no image registry given (Options.Installer)") }
	}
	if !o.Pool.First.IsValid() {
		o.Pool = Pool{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199"), Bits: 24}
	}
	if o.Pool.First.BitLen() != o.Pool.Last.BitLen() || o.Pool.Last.Less(o.Pool.First) {
		return o, errors.New("simulated machines: the DHCP pool's last address lies before its first (Options.Pool)")
	}
	setDefault(&o.Timing.Boot, 30*time.Millisecond)
	setDefault(&o.Timing.Install, 40*time.Millisecond)
	setDefault(&o.Timing.BootstrapDelay, 40*time.Millisecond)
	setDefault(&o.Timing.Stop, 20*time.Millisecond)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}
