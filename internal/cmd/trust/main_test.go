package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	withCA = `config:
  cloudlab:proxmox: {endpoint: "https://pve.example.com:8006", tls: {caFile: ca.pem}}
  cloudlab:cluster: {name: lab}
  cloudlab:nodes: {cp-1: {vmId: 101, address: 192.0.2.11/24, gateway: 192.0.2.1}}
`
	certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
)

func TestRun(t *testing.T) {
	withoutCA := strings.Replace(withCA, ", tls: {caFile: ca.pem}", "", 1)
	tests := map[string]struct {
		stack, ca, goos string
		system          bool
		want, failure   string
	}{
		"bundle":            {stack: withCA, ca: certificate, goos: "linux", system: true, want: "system\n" + certificate},
		"no own authority":  {stack: withoutCA, goos: "linux", system: true},
		"missing file":      {stack: withCA, goos: "linux", system: true, failure: "copy /etc/pve/pve-root-ca.pem"},
		"no certificate":    {stack: withCA, ca: "x", goos: "linux", system: true, failure: "holds no PEM certificate"},
		"no system bundle":  {stack: withCA, ca: certificate, goos: "linux", failure: "set SSL_CERT_FILE"},
		"macOS":             {stack: withCA, ca: certificate, goos: "darwin", system: true, failure: "security add-trusted-cert"},
		"bad configuration": {stack: "config: {}", goos: "linux", system: true, failure: "Pulumi.lab.yaml: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"Pulumi.lab.yaml": test.stack, "ca.pem": test.ca} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			system := filepath.Join(dir, "system.pem")
			if test.system {
				if err := os.WriteFile(system, []byte("system"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// Twice: the second run replaces what the first wrote.
			for range 2 {
				var out bytes.Buffer
				err := run(dir, "lab", test.goos, []string{filepath.Join(dir, "none.pem"), system}, &out)
				if test.failure == "" && err != nil || test.failure != "" && (err == nil || !strings.Contains(err.Error(), test.failure)) {
					t.Fatalf("got error %v, want %q", err, test.failure)
				}
			}
			got, err := os.ReadFile(filepath.Join(dir, bundleName))
			if test.want == "" && !os.IsNotExist(err) || string(got) != test.want {
				t.Errorf("%s: %q, %v; want %q", bundleName, got, err, test.want)
			}
		})
	}
}
