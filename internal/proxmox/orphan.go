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
	// orphanTimeout bounds one look at Proxmox, including the removal of a machine.
	orphanTimeout = time.Minute
	// orphanAge is how long a stopped machine counts as just made.
	orphanAge = time.Hour
)

// Orphans clears machines that an interrupted run created but did not live to record: without it, the next run would fail
// because the machine's number is taken.
//
// A machine is removed only when nothing can be lost: it carries this incarnation's mark, is not in the state (that is when the
// hook runs), and never got a machine config, which is so when it still waits in maintenance mode, or has not been started since it
// was made within the hour. Everything else is left alone and refused with an explanation.
type Orphans struct {
	client *api.Client
	// unconfigured reports whether a machine waits for its first config at one of these addresses.
	unconfigured func(ctx context.Context, addresses []string) bool
	logf         func(format string, args ...any)
	now          func() time.Time
}

// NewOrphans looks at Proxmox with its own client. unconfigured must be certain: true permits a removal.
func NewOrphans(settings config.Proxmox, token string, unconfigured func(context.Context, []string) bool, logf func(string, ...any)) (*Orphans, error) {
	id, secret, ok := strings.Cut(token, "=")
	if !ok {
		return nil, errors.New("proxmox API token: expected user@realm!name=secret")
	}
	httpClient, err := verifiedClient(settings.TLS)
	if err != nil {
		return nil, err
	}
	client := api.NewClient(settings.Endpoint.JoinPath("api2/json").String(), api.WithHTTPClient(httpClient), api.WithAPIToken(id, secret))
	return &Orphans{client: client, unconfigured: unconfigured, logf: logf, now: time.Now}, nil
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
	return &http.Client{Transport: transport, Timeout: orphanTimeout}, nil
}

// beforeCreate is the resource hook of every machine.
func (o *Orphans) beforeCreate(args *pulumi.ResourceHookArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), orphanTimeout)
	defer cancel()
	machine, err := orphanFrom(args.NewInputs)
	if err != nil {
		return fmt.Errorf("machine %q: %w", args.Name, err)
	}
	return o.clear(ctx, args.Name, machine)
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

func (o *Orphans) clear(ctx context.Context, name string, machine orphan) error {
	var found struct {
		Description string `json:"description"`
		Meta        string `json:"meta"`
	}
	if err := o.client.Get(ctx, machine.path("/config"), &found); err != nil {
		if absent(err) {
			return nil
		}
		// Whatever keeps Proxmox from answering is the provider's to report, with its own words.
		o.logf("machine %q: could not look for VM %d on %s: %v", name, machine.vmid, machine.node, err)
		return nil
	}
	where := fmt.Sprintf("machine %q: VM %d already exists on Proxmox node %q", name, machine.vmid, machine.node)
	if !strings.Contains(found.Description, ownerMark(machine.owner)) {
		return fmt.Errorf("%s and does not belong to this stack: choose another vmId for node %q, or remove the VM", where, name)
	}
	var status struct {
		Status string `json:"status"`
	}
	if err := o.client.Get(ctx, machine.path("/status/current"), &status); err != nil {
		return fmt.Errorf("%s and its status is unknown: %w", where, err)
	}
	running := status.Status == "running"
	switch {
	case running && o.unconfigured(ctx, o.addresses(ctx, machine)):
	case !running && o.now().Sub(created(found.Meta)) < orphanAge:
	default:
		return fmt.Errorf("%s, carries this stack's mark and may hold data: bring it back into the state with "+
			"`pulumi import proxmoxve:VM/virtualMachine:VirtualMachine %s %s/%d`, or remove the VM if it is not needed",
			where, name, machine.node, machine.vmid)
	}
	o.logf("machine %q: removing VM %d on %s, left behind without data by an interrupted run", name, machine.vmid, machine.node)
	return o.remove(ctx, where, machine, running)
}

func (o *Orphans) remove(ctx context.Context, where string, machine orphan, running bool) error {
	if running {
		var stop api.UPID
		if err := o.client.Post(ctx, machine.path("/status/stop"), nil, &stop); err != nil {
			return fmt.Errorf("%s and could not be stopped: %w", where, err)
		}
		if err := api.NewTask(stop, o.client).Wait(ctx, 200*time.Millisecond, orphanTimeout); err != nil {
			return fmt.Errorf("%s and could not be stopped: %w", where, err)
		}
	}
	var destroy api.UPID
	if err := o.client.Delete(ctx, machine.path("?purge=1&destroy-unreferenced-disks=1"), &destroy); err != nil {
		return fmt.Errorf("%s and could not be removed: %w", where, err)
	}
	task := api.NewTask(destroy, o.client)
	if err := task.Wait(ctx, 200*time.Millisecond, orphanTimeout); err != nil {
		return fmt.Errorf("%s and could not be removed: %w", where, err)
	}
	if task.IsFailed {
		return fmt.Errorf("%s and could not be removed: %s", where, task.ExitStatus)
	}
	return nil
}

// addresses asks the guest agent; a silent one has none.
func (o *Orphans) addresses(ctx context.Context, machine orphan) []string {
	var answer struct {
		Result []struct {
			Addresses []struct {
				Address string `json:"ip-address"`
			} `json:"ip-addresses"`
		} `json:"result"`
	}
	if err := o.client.Get(ctx, machine.path("/agent/network-get-interfaces"), &answer); err != nil {
		return nil
	}
	var addresses []string
	for _, device := range answer.Result {
		for _, address := range device.Addresses {
			addresses = append(addresses, address.Address)
		}
	}
	return addresses
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
