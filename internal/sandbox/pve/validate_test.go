package pve

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParameterErrors(t *testing.T) {
	l := newLab(t)
	const create = "/nodes/pve/qemu"
	for _, test := range []struct {
		name   string
		method string
		path   string
		params []string
		errs   map[string]string
	}{
		{"unknown", "GET", "/version", []string{"x", "1"}, map[string]string{
			"x": "property is not defined in schema and the schema does not allow additional properties",
		}},
		{"missing", "POST", create, nil, map[string]string{"vmid": "property is missing and it is not optional"}},
		{"all at once", "POST", create, []string{"vmid", "99", "cores", "0", "nope", "1"}, map[string]string{
			"vmid": "invalid format - value does not look like a valid VM ID\n", "cores": "value must have a minimum value of 1",
			"nope": "property is not defined in schema and the schema does not allow additional properties",
		}},
		{"integer", "POST", create, []string{"vmid", "100", "cores", "two"}, map[string]string{"cores": "type check ('integer') failed - got 'two'"}},
		{"boolean", "POST", create, []string{"vmid", "100", "onboot", "true"}, map[string]string{"onboot": "type check ('boolean') failed - got 'true'"}},
		{"repeated", "POST", create, []string{"vmid", "100", "name", "a", "name", "b"}, map[string]string{"name": "type check ('string') failed - got ARRAY"}},
		{"enum", "POST", create, []string{"vmid", "100", "bios", "uefi"}, map[string]string{
			"bios": "value 'uefi' does not have a value in the enumeration 'seabios, ovmf'",
		}},
		{"too long", "POST", create, []string{"vmid", "100", "description", strings.Repeat("x", 8193)}, map[string]string{
			"description": "value may only be 8192 characters long",
		}},
		{"maximum", "POST", create, []string{"vmid", "1000000000"}, map[string]string{
			"vmid": "invalid format - value does not look like a valid VM ID\n",
		}},
		{"name", "POST", create, []string{"vmid", "100", "name", "under_score"}, map[string]string{
			"name": "invalid format - value does not look like a valid DNS name\n",
		}},
		{"pattern", "POST", create, []string{"vmid", "100", "machine", "q36"}, map[string]string{
			"machine": "invalid format - format error\nmachine.type: value does not match the regex pattern\n",
		}},
		{"property string", "POST", create, []string{"vmid", "100", "net0", "virtio,bridge=vmbr0,tag=5000"}, map[string]string{
			"net0": "invalid format - format error\nnet0.tag: value must have a maximum value of 4094\n",
		}},
		{"multicast MAC", "POST", create, []string{"vmid", "100", "net0", "virtio=01:00:00:00:00:01"}, map[string]string{
			"net0": "invalid format - format error\nnet0.macaddr: invalid format - value does not look like a valid unicast MAC address\n\n",
		}},
		{"unknown key", "POST", create, []string{"vmid", "100", "scsi0", "local-lvm:1,colour=red"}, map[string]string{
			"scsi0": "invalid format - invalid key in comma-separated list property: colour\n",
		}},
		{"duplicate key", "POST", create, []string{"vmid", "100", "agent", "enabled=1,enabled=0"}, map[string]string{
			"agent": "invalid format - duplicate key in comma-separated list property: enabled\n",
		}},
		{"device number", "POST", create, []string{"vmid", "100", "scsi31", "local-lvm:1"}, map[string]string{
			"scsi31": "property is not defined in schema and the schema does not allow additional properties",
		}},
		{"boot device", "POST", create, []string{"vmid", "100", "boot", "order=floppy0"}, map[string]string{
			"boot": "invalid format - format error\nboot.order: invalid format - invalid boot device 'floppy0'\n\n",
		}},
		{"CPU", "POST", create, []string{"vmid", "100", "cpu", "x86-64-v5"}, map[string]string{
			"cpu": "invalid format - Built-in cputype 'x86-64-v5' is not defined (missing 'custom-' prefix?)\n",
		}},
		{"custom CPU", "POST", create, []string{"vmid", "100", "cpu", "custom-x"}, map[string]string{"cpu": "invalid format - Custom cputype 'x' not found\n"}},
		{"tag", "POST", create, []string{"vmid", "100", "tags", "ok;b!d"}, map[string]string{"tags": "invalid format - invalid characters in tag\n"}},
		{"requires", "POST", "/nodes/pve/storage/local/download-url", []string{"content", "iso", "filename", "x.iso", "url", "http://x/", "checksum", "00"}, map[string]string{
			"checksum-algorithm": "missing property - 'checksum' requires this property",
		}},
		{"URL", "GET", "/nodes/pve/query-url-metadata", []string{"url", "ftp://x"}, map[string]string{"url": "value does not match the regex pattern"}},
		{"conflict with the path", "GET", "/nodes/pve/storage", []string{"node", "other"}, map[string]string{
			"node": "duplicate parameter (already defined in URI) with conflicting values!",
		}},
		{"drive sense", "POST", create, []string{"vmid", "100", "virtio0", "none,media=cdrom"}, map[string]string{"virtio0": "unable to parse drive options"}},
		{"ISO as a disk", "POST", create, []string{"vmid", "100", "ide2", "local:iso/talos.iso"}, map[string]string{
			"ide2": "explicit 'media=cdrom' is required for iso images",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.t = t
			l.refused(l.call(test.method, test.path, test.params...), http.StatusBadRequest, "Parameter verification failed.", test.errs)
		})
	}
	if machines := l.Inventory().Machines; len(machines) != 0 {
		t.Errorf("refused calls made machines: %+v", machines)
	}
}

func TestRouting(t *testing.T) {
	l := newLab(t)
	for _, test := range []struct{ method, path, reason string }{
		{"GET", "/nope", "Method 'GET /nope' not implemented"},
		{"PUT", "/version", "Method 'PUT /version' not implemented"},
		{"GET", "/nodes/pve/lxc", "Method 'GET /nodes/pve/lxc' not implemented"},
		{"POST", "/nodes/pve/qemu/101/move_disk?disk=scsi0", "Method 'POST /nodes/pve/qemu/101/move_disk' not implemented"},
	} {
		l.refused(l.call(test.method, test.path), http.StatusNotImplemented, test.reason, nil)
	}
	l.refused(l.call("GET", "/nodes/other/status"), http.StatusInternalServerError,
		"hostname lookup 'other' failed - failed to get address info for: other: Name or service not known", nil)
	l.ok("GET", "/nodes/localhost/status")
	l.ok("GET", "//nodes//pve/status/")
}

func TestJSONBody(t *testing.T) {
	l := newLab(t)
	body := `{"vmid":100,"cores":2,"onboot":true,"name":"json","description":null}`
	request := httptest.NewRequest("POST", "/api2/json/nodes/pve/qemu", strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", l.header)
	recorder := httptest.NewRecorder()
	l.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK {
		t.Fatal(recorder.Body)
	}
	config := decode[map[string]any](t, l.ok("GET", "/nodes/pve/qemu/100/config"))
	if config["onboot"] != 1.0 || config["cores"] != 2.0 || config["name"] != "json" {
		t.Errorf("config %v", config)
	}
}

func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"a=1&b=2", "vmid=101&net0=model%3Dvirtio%2Cbridge%3Dvmbr0", "a=%zz&&;=+", "vmid=100&vmid=101", "x=\xff%ff", `{"vmid":100,"a":[1],"b":{"c":1}}`} {
		f.Add(seed, strings.HasPrefix(seed, "{"))
	}
	loaded, err := loadSchema()
	if err != nil {
		f.Fatal(err)
	}
	create := loaded.lookup("POST", "/nodes/{node}/qemu")
	f.Fuzz(func(t *testing.T, body string, isJSON bool) {
		request := httptest.NewRequest("POST", "/api2/json/nodes/pve/qemu", strings.NewReader(body))
		if isJSON {
			request.Header.Set("Content-Type", "application/json")
		}
		params, err := readParameters(request, false)
		if err != nil {
			return
		}
		for name, v := range params {
			if !utf8.ValidString(name) || !utf8.ValidString(v.text) {
				t.Fatalf("invalid UTF-8: %q=%q", name, v.text)
			}
		}
		params["node"] = value{text: "pve"}
		accepted, err := loaded.validate(create, params)
		if err != nil {
			if e := asAPIError(err); e.status != http.StatusBadRequest || len(e.fields) == 0 {
				t.Fatalf("%v without the parameters' errors", err)
			}
			if _, err := json.Marshal(asAPIError(err).fields); err != nil {
				t.Fatal(err)
			}
			return
		}
		if !vmidPattern.MatchString(accepted["vmid"]) {
			t.Fatalf("accepted vmid %q", accepted["vmid"])
		}
	})
}

func FuzzPropertyString(f *testing.F) {
	for _, seed := range []string{
		"file=local-lvm:32,format=raw,size=34359738368,aio=io_uring,backup=1", "local:iso/x.iso,media=cdrom,", "none,media=cdrom", ",,=,", "a=b=c",
		"local-lvm:vm-1-disk-0,size=1.5G", "file=x:1,volume=y:2",
	} {
		f.Add("scsi0", seed)
	}
	f.Add("net0", "model=virtio,bridge=vmbr0,macaddr=BC:24:11:00:00:01")
	f.Add("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=0")
	loaded, err := loadSchema()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, option, text string) {
		p := loaded.config[option]
		if p == nil || p.Format.fields == nil {
			return
		}
		values, err := loaded.parseProperties(p.Format.fields, text, option)
		if err != nil {
			return
		}
		// Proxmox prints the default key's value without its name and then misreads one that holds an equals sign.
		if strings.Contains(values[p.Format.fields.defaultKey()], "=") {
			return
		}
		printed := printProperties(p.Format.fields, values)
		again, err := loaded.parseProperties(p.Format.fields, printed, option)
		if err != nil {
			t.Fatalf("%q was printed as %q, which is refused: %v", text, printed, err)
		}
		if reprinted := printProperties(p.Format.fields, again); reprinted != printed {
			t.Fatalf("%q was printed as %q and then as %q", text, printed, reprinted)
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "4M": 4 << 20, "1.5G": 3 << 29, "2T": 2 << 40, "0": 0} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v", text, got, err)
		}
	}
	for bytes, want := range map[int64]string{1: "1", 1024: "1K", 4 << 20: "4M", 32 << 30: "32G", 3 << 29: "1536M", 1 << 40: "1T", 1 << 50: "1024T"} {
		if got := formatSize(bytes); got != want {
			t.Errorf("formatSize(%d) = %q, want %q", bytes, got, want)
		}
	}
	for _, text := range []string{"", "x", "1X", "-1", "99999999999T"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d", text, got)
		}
	}
}
