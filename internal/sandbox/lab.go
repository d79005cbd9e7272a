package sandbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloudlab/internal/sandbox/factory"
	"cloudlab/internal/sandbox/lan"
	"cloudlab/internal/sandbox/machine"
	"cloudlab/internal/sandbox/pve"
)

// saveAfter is how long a change waits for others before the state is saved.
const saveAfter = 200 * time.Millisecond

// Options choose what is simulated.
type Options struct {
	Folder Folder
	// Nodes are the Proxmox nodes; default pve, pve2 and pve3.
	Nodes []string
	// Storages of every Proxmox node; default pve.DefaultStorages.
	Storages []pve.Storage
	// Privileges of the program's API token on the whole installation; default pve.MinimalRole.
	Privileges []string
	// Timing of the machines; the zero value is fast.
	Timing machine.Timing
	// Log receives what the simulated hardware logs; nil drops it.
	Log io.Writer
}

// Lab is running simulated hardware.
type Lab struct {
	// The parts, for assertions and faults.
	LAN     *lan.LAN
	Proxmox *pve.Server
	Rack    *machine.Rack
	Factory *factory.Factory

	folder  Folder
	web     *http.Server
	control *controlServer

	saving  sync.Mutex
	changed chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// Start powers the hardware on, with what it remembers from an earlier life, and makes it known in its folder.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if err := o.Folder.Prepare(ctx); err != nil {
		return nil, err
	}
	if found, err := Connect(ctx, o.Folder); err == nil {
		return nil, fmt.Errorf("the hardware of this sandbox already runs (process %d)", found.PID)
	}
	l := &Lab{folder: o.Folder, changed: make(chan struct{}, 1)}
	if err := l.start(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("simulated hardware: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, o Options) error {
	if len(o.Nodes) == 0 {
		o.Nodes = []string{"pve", "pve2", "pve3"}
	}
	if o.Privileges == nil {
		o.Privileges = pve.MinimalRole()
	}
	var err error
	if l.LAN, err = startLAN(ctx, l.folder); err != nil {
		return err
	}
	if err := l.startFactory(); err != nil {
		return err
	}
	if err := l.startRack(o); err != nil { //nolint:contextcheck // the rack lives until Close, not until the start is over
		return err
	}
	if err := l.startProxmox(o); err != nil {
		return err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.done.Go(func() { l.saveChanges(background) })
	l.control, err = startControl(ctx, l)
	return err
}

// startLAN keeps the proxy's port over a restart, so that exported environments stay valid, unless somebody else has it now.
func startLAN(ctx context.Context, folder Folder) (*lan.LAN, error) {
	if raw, err := os.ReadFile(folder.hardware("port")); err == nil {
		if port, err := strconv.ParseUint(string(raw), 10, 16); err == nil {
			if l, err := lan.StartOn(ctx, net.JoinHostPort("127.0.0.1", strconv.FormatUint(port, 10))); err == nil {
				return l, nil
			}
		}
	}
	l, err := lan.Start(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.ProxyURL()[len("http://"):])
	if err != nil {
		return l, err
	}
	return l, writeFile(folder.hardware("port"), []byte(port))
}

func (l *Lab) startFactory() error {
	f, err := factory.New(factory.Options{})
	if err != nil {
		return err
	}
	l.Factory = f
	if err := restore(l.folder.hardware("factory.json"), f.Restore); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(FactoryAddress)
	if err != nil {
		return err
	}
	certificate, err := l.folder.certificate(host)
	if err != nil {
		return err
	}
	listener, err := l.LAN.Listen(FactoryAddress)
	if err != nil {
		return err
	}
	l.web = &http.Server{
		Handler: l.Factory, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	l.done.Go(func() { _ = l.web.ServeTLS(listener, "", "") })
	return nil
}

func (l *Lab) startRack(o Options) error {
	log := slog.New(slog.DiscardHandler)
	if o.Log != nil {
		log = slog.New(slog.NewTextHandler(o.Log, nil))
	}
	rack, err := machine.New(machine.Options{
		LAN: l.LAN, Timing: o.Timing, Log: log,
		ReadISO: readISO,
		Installer: func(ref string) (machine.Image, error) {
			return image(l.Factory.Installer(ref))
		},
		OnStopped: func(vmid int) { l.Proxmox.GuestStopped(vmid) },
	})
	if err != nil {
		return err
	}
	l.Rack = rack
	return restore(l.folder.hardware("machines.json"), rack.Restore)
}

// agentPing is how long Proxmox waits for a guest agent that does not answer.
const agentPing = 3 * time.Second

// guests lets the guest agent of a booting machine answer as soon as it can, as on Proxmox, which waits for it.
type guests struct{ *machine.Rack }

func (g guests) Interfaces(vmid int) ([]pve.Interface, error) {
	for deadline := time.Now().Add(agentPing); ; time.Sleep(10 * time.Millisecond) {
		interfaces, err := g.Rack.Interfaces(vmid)
		if !errors.Is(err, pve.ErrAgentNotRunning) || time.Now().After(deadline) {
			return interfaces, err
		}
	}
}

func readISO(path string) (machine.Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return machine.Image{}, err
	}
	defer file.Close() //nolint:errcheck // read only
	return image(factory.ReadISO(file))
}

func image(boot factory.Boot, err error) (machine.Image, error) {
	return machine.Image{Schematic: boot.Schematic, Version: boot.Version, SecureBoot: boot.SecureBoot, Extensions: boot.Extensions}, err
}

func (l *Lab) startProxmox(o Options) error {
	token, err := l.folder.token()
	if err != nil {
		return err
	}
	_, secret, _ := strings.Cut(token.Reveal(), "=")
	roots, err := l.folder.roots()
	if err != nil {
		return err
	}
	fetch := &http.Client{Transport: &http.Transport{
		DialContext: l.LAN.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	l.Proxmox, err = pve.New(pve.Options{
		Nodes: o.Nodes, Storages: o.Storages, Guests: guests{l.Rack}, Fetch: fetch, Dir: l.folder.hardware("storage"),
		Tokens: map[string]pve.Token{TokenID: pve.Grant(secret, o.Privileges...)},
		Changed: func() {
			select {
			case l.changed <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	if err := restore(l.folder.hardware("proxmox.json"), l.Proxmox.Restore); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(ProxmoxAddress)
	if err != nil {
		return err
	}
	certificate, err := l.folder.certificate(append([]string{host}, o.Nodes...)...)
	if err != nil {
		return err
	}
	listener, err := l.LAN.Listen(ProxmoxAddress)
	if err != nil {
		return err
	}
	l.done.Go(func() { _ = l.Proxmox.Serve(listener, certificate) })
	return nil
}

// Folder is where the sandbox keeps its state.
func (l *Lab) Folder() Folder { return l.folder }

// Environ is what clients need to reach this sandbox.
func (l *Lab) Environ() []string { return l.folder.Environ(l.LAN.ProxyURL()) }

// Stopping is closed when somebody asked the hardware to stop over its control address.
func (l *Lab) Stopping() <-chan struct{} { return l.control.stopping }

// Close powers everything off as a power cut would and saves what disks would remember.
func (l *Lab) Close() error {
	var errs []error
	if l.control != nil {
		errs = append(errs, l.control.close())
	}
	if l.stop != nil {
		l.stop()
	}
	if l.Proxmox != nil && l.Rack != nil && l.Factory != nil {
		errs = append(errs, l.save())
	}
	if l.Proxmox != nil {
		errs = append(errs, l.Proxmox.Close())
	}
	if l.Rack != nil {
		errs = append(errs, l.Rack.Close())
	}
	if l.web != nil {
		errs = append(errs, l.web.Close())
	}
	if l.LAN != nil {
		errs = append(errs, l.LAN.Close())
	}
	l.done.Wait()
	return errors.Join(errs...)
}

func (l *Lab) saveChanges(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(saveAfter):
		}
		if err := l.save(); err != nil {
			slog.Default().Error("simulated hardware: state not saved", "error", err)
		}
	}
}

func (l *Lab) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	for _, part := range []struct {
		file     string
		snapshot func() ([]byte, error)
	}{
		{"factory.json", l.Factory.Snapshot}, {"machines.json", l.Rack.Snapshot}, {"proxmox.json", l.Proxmox.Snapshot},
	} {
		raw, err := part.snapshot()
		if err == nil {
			err = writeFile(l.folder.hardware(part.file), raw)
		}
		if err != nil {
			return fmt.Errorf("save %s: %w", part.file, err)
		}
	}
	return nil
}

func restore(path string, into func([]byte) error) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := into(raw); err != nil {
		return fmt.Errorf("%s: %w: remove the sandbox's folder to start anew", path, err)
	}
	return nil
}
