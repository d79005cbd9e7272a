package proxmox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/luthermonson/go-proxmox"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"golang.org/x/net/http/httpproxy"

	"cloudlab/internal/config"
)

const (
	// orphanTimeout bounds the clearing of one machine. It may still be booting, from an ISO, twice: the first boot enrolls keys.
	orphanTimeout = 3 * time.Minute
	// callTimeout bounds one call of Proxmox, orphanPause is the time between two looks.
	callTimeout = 30 * time.Second
	orphanPause = 250 * time.Millisecond
	// orphanAge is how long a machine counts as just made.
	orphanAge = time.Hour
)

// Orphans clears machines that an interrupted run created but did not live to record: without it, the next run would fail
// because the machine's number is taken.
//
// A machine is removed only when it carries this incarnation's mark, is not in the state (that is when the hook runs), and either
// still waits in maintenance mode, so that it never got a machine config, or is off and was made within the hour. The latter is a
// guess: Proxmox does not say whether a machine ever ran. Everything else is left alone and refused with an explanation.
//
// A plugin may outlive its engine and go on with what it was asked for. A machine that changes is therefore watched until it
// is clear what it is.
type Orphans struct {
	client *api.Client
	probe  Probe
	logf   func(format string, args ...any)
	now    func() time.Time
}

// Probe tells whether a machine's own API answers at one of these addresses, and if so whether it waits for its first machine config.
// It must be certain: unconfigured permits a removal.
type Probe func(ctx context.Context, addresses []string) (answers, unconfigured bool)

// NewOrphans looks at Proxmox with its own client.
func NewOrphans(settings config.Proxmox, token string, probe Probe, logf func(string, ...any)) (*Orphans, error) {
	id, secret, ok := strings.Cut(token, "=")
	if !ok {
		return nil, errors.New("proxmox API token: expected user@realm!name=secret")
	}
	httpClient, err := verifiedClient(settings.TLS)
	if err != nil {
		return nil, err
	}
	client := api.NewClient(settings.Endpoint.JoinPath("api2/json").String(), api.WithHTTPClient(httpClient), api.WithAPIToken(id, secret))
	return &Orphans{client: client, probe: probe, logf: logf, now: time.Now}, nil
}

func verifiedClient(settings config.TLS) (*http.Client, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: settings.Insecure} //nolint:gosec // only when the operator configured it
	if settings.CAFile != "" {
		pem, err := os.ReadFile(settings.CAFile)
		if err != nil {
			return nil, fmt.Errorf("proxmox.tls.caFile: %w", err)
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("proxmox.tls.caFile: %s holds no PEM certificate", settings.CAFile)
		}
	}
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	transport := &http.Transport{
		TLSClientConfig: trust,
		Proxy:           func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
	}
	return &http.Client{Transport: strict{transport}, Timeout: callTimeout}, nil
}

// strict makes errors of the statuses that the client takes for an answer without data, such as 595, which a Proxmox node gives
// for another one that is down.
type strict struct{ http.RoundTripper }

func (s strict) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := s.RoundTripper.RoundTrip(request)
	if err != nil || response.StatusCode <= http.StatusNotImplemented {
		return response, err
	}
	_ = response.Body.Close() // the status says it all
	return nil, errors.New(response.Status)
}

// beforeCreate is the resource hook of every machine.
func (o *Orphans) beforeCreate(args *pulumi.ResourceHookArgs) error {
	if needsMedium(args.NewInputs) {
		return fmt.Errorf("machine %q: a new machine has nothing to boot while cluster.image.eject is true: "+
			"set it to false, run up, and eject again when the machine is installed", args.Name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), orphanTimeout)
	defer cancel()
	machine, err := orphanFrom(args.NewInputs)
	if err != nil {
		return fmt.Errorf("machine %q: %w", args.Name, err)
	}
	return o.clear(ctx, args.Name, machine)
}

// needsMedium is true for a machine without an ISO: its disk is as empty as the machine is new.
func needsMedium(inputs resource.PropertyMap) bool {
	cdrom := inputs["cdrom"]
	return cdrom.IsObject() && cdrom.ObjectValue()["fileId"].IsString() && cdrom.ObjectValue()["fileId"].StringValue() == noMedium
}

type orphan struct {
	node  string
	vmid  int
	owner string // the mark in its description
}

func orphanFrom(inputs resource.PropertyMap) (orphan, error) {
	node, vmid, text := inputs["nodeName"], inputs["vmId"], inputs["description"]
	if !node.IsString() || !vmid.IsNumber() || !text.IsString() {
		return orphan{}, errors.New("node name, VM ID and description must be known when it is created")
	}
	_, owner, ok := strings.Cut(text.StringValue(), ownerMark(""))
	if !ok {
		return orphan{}, errors.New("description does not name its owner")
	}
	return orphan{node: node.StringValue(), vmid: int(vmid.NumberValue()), owner: owner}, nil
}

func (m orphan) path(rest string) string {
	return fmt.Sprintf("/nodes/%s/qemu/%d%s", m.node, m.vmid, rest)
}

// errUnclear is a machine about which nothing can be said yet.
var errUnclear = errors.New("unclear")

func (o *Orphans) clear(ctx context.Context, name string, machine orphan) error {
	where := fmt.Sprintf("machine %q: VM %d already exists on Proxmox node %q", name, machine.vmid, machine.node)
	for waiting := false; ; waiting = true {
		err := o.look(ctx, name, where, machine)
		if !errors.Is(err, errUnclear) {
			return err
		}
		if !waiting {
			o.logf("machine %q: VM %d on %s was left behind by an interrupted run: waiting up to %s to see what became of it",
				name, machine.vmid, machine.node, orphanTimeout)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s and cannot be judged after %s (%w): look at its tasks and its console in Proxmox, then run up again, "+
				"or remove the VM if it is not needed", where, orphanTimeout, err)
		case <-time.After(orphanPause):
		}
	}
}

// look removes the machine when it may, and returns an error when it may not.
func (o *Orphans) look(ctx context.Context, name, where string, machine orphan) error {
	var found struct {
		Description string `json:"description"`
		Meta        string `json:"meta"`
		Lock        string `json:"lock"`
	}
	if err := o.client.Get(ctx, machine.path("/config"), &found); err != nil {
		if !absent(err) {
			// Whatever keeps Proxmox from answering is the provider's to report, with its own words.
			o.logf("machine %q: could not look for VM %d on %s: %v", name, machine.vmid, machine.node, err)
		}
		return nil
	}
	if found.Lock == "create" {
		// Its config is written at the end.
		return fmt.Errorf("%w: it is being created", errUnclear)
	}
	if !strings.Contains(found.Description, ownerMark(machine.owner)) {
		return fmt.Errorf("%s and does not belong to this stack: choose another vmId for node %q, or remove the VM", where, name)
	}
	var status struct {
		Status string `json:"status"`
	}
	if err := o.client.Get(ctx, machine.path("/status/current"), &status); err != nil {
		return fmt.Errorf("%w: its status is unknown: %w", errUnclear, err)
	}
	running, young := status.Status == "running", o.now().Sub(created(found.Meta)) < orphanAge
	empty := young
	if running {
		answers, unconfigured := o.probe(ctx, o.addresses(ctx, machine, ""))
		if !answers && young {
			return fmt.Errorf("%w: its API does not answer", errUnclear)
		}
		empty = answers && unconfigured
	}
	if !empty {
		return fmt.Errorf("%s, carries this stack's mark and may hold data: bring it back into the state with "+
			"`pulumi import proxmoxve:VM/virtualMachine:VirtualMachine %s %s/%d`, or remove the VM if it is not needed",
			where, name, machine.node, machine.vmid)
	}
	o.logf("machine %q: removing VM %d on %s, left behind without data by an interrupted run", name, machine.vmid, machine.node)
	if err := o.remove(ctx, machine, running); err != nil {
		return fmt.Errorf("%w: %w", errUnclear, err)
	}
	return nil
}

func (o *Orphans) remove(ctx context.Context, machine orphan, running bool) error {
	if running {
		var stop api.UPID
		if err := o.client.Post(ctx, machine.path("/status/stop"), nil, &stop); err != nil {
			return fmt.Errorf("it could not be stopped: %w", err)
		}
		if err := o.await(ctx, stop); err != nil {
			return fmt.Errorf("it could not be stopped: %w", err)
		}
	}
	var destroy api.UPID
	if err := o.client.Delete(ctx, machine.path("?purge=1&destroy-unreferenced-disks=1"), &destroy); err != nil {
		return fmt.Errorf("it could not be removed: %w", err)
	}
	if err := o.await(ctx, destroy); err != nil {
		return fmt.Errorf("it could not be removed: %w", err)
	}
	return nil
}

func (o *Orphans) await(ctx context.Context, upid api.UPID) error {
	task := api.NewTask(upid, o.client)
	if err := task.Wait(ctx, 200*time.Millisecond, orphanTimeout); err != nil {
		return err
	}
	if task.IsFailed {
		return errors.New(task.ExitStatus)
	}
	return nil
}

// addresses asks the guest agent for the addresses of the network device with this MAC, of all when it is empty; a silent one has none.
func (o *Orphans) addresses(ctx context.Context, machine orphan, mac string) []string {
	var answer struct {
		Result []struct {
			MAC       string `json:"hardware-address"`
			Addresses []struct {
				Address string `json:"ip-address"`
			} `json:"ip-addresses"`
		} `json:"result"`
	}
	if err := o.client.Get(ctx, machine.path("/agent/network-get-interfaces"), &answer); err != nil {
		return nil
	}
	var macs []string
	var all [][]string
	for _, device := range answer.Result {
		var addresses []string
		for _, address := range device.Addresses {
			addresses = append(addresses, address.Address)
		}
		macs, all = append(macs, device.MAC), append(all, addresses)
	}
	if mac == "" {
		return slices.Concat(all...)
	}
	return reportedAddresses(mac, macs, all)
}

// created reads the creation time that Proxmox keeps in a VM's meta option, e.g. "creation-qemu=9.0.2,ctime=1724800000".
func created(meta string) time.Time {
	for item := range strings.SplitSeq(meta, ",") {
		if text, ok := strings.CutPrefix(item, "ctime="); ok {
			if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}

// absent recognises Proxmox's answer for a VM that is not there: 500 with the reason "Configuration file … does not exist".
func absent(err error) bool {
	return api.IsNotFound(err) || strings.Contains(err.Error(), "does not exist")
}
