package stack

import (
	stdx509 "crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/siderolabs/crypto/x509"
)

func TestCheckTrust(t *testing.T) {
	authority := func() []byte {
		ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true), x509.Organization("Proxmox Virtual Environment"))
		if err != nil {
			t.Fatal(err)
		}
		return ca.CrtPEM
	}
	own, other := authority(), authority()
	files := map[string][]byte{
		"ca.pem": own, "other.pem": other, "both.pem": slices.Concat(other, own), "text.pem": []byte("not PEM\n"),
		"key.pem": []byte("-----BEGIN X-----\nAAAA\n-----END X-----\n"), "spoilt.pem": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	}
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, caFile, bundle string
		want                 []string // words of the error; none for success
	}{
		{name: "trusted through SSL_CERT_FILE", caFile: "ca.pem", bundle: "ca.pem"},
		{name: "one of several there", caFile: "ca.pem", bundle: "both.pem"},
		{name: "missing", caFile: "gone.pem", want: []string{"proxmox.tls.caFile", "gone.pem does not exist", "/etc/pve/pve-root-ca.pem"}},
		{name: "not PEM", caFile: "text.pem", want: []string{"text.pem holds no PEM certificate"}},
		{name: "PEM of something else", caFile: "key.pem", want: []string{"key.pem holds no PEM certificate"}},
		{name: "not a certificate", caFile: "spoilt.pem", want: []string{"spoilt.pem"}},
		{name: "not trusted", caFile: "ca.pem", want: []string{"does not trust", "SSL_CERT_FILE"}},
		{name: "another is trusted", caFile: "ca.pem", bundle: "other.pem", want: []string{"does not trust", "Proxmox Virtual Environment"}},
		{name: "only one of two is trusted", caFile: "both.pem", bundle: "ca.pem", want: []string{"does not trust"}},
		{name: "SSL_CERT_FILE is missing", caFile: "ca.pem", bundle: "gone.pem", want: []string{"SSL_CERT_FILE", "gone.pem"}},
		{name: "SSL_CERT_FILE is not PEM", caFile: "ca.pem", bundle: "text.pem", want: []string{"SSL_CERT_FILE", "no PEM certificate"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			environment := map[string]string{}
			if test.bundle != "" {
				environment["SSL_CERT_FILE"] = filepath.Join(dir, test.bundle)
			}
			err := checkTrust(filepath.Join(dir, test.caFile), func(name string) string { return environment[name] })
			if len(test.want) == 0 && err != nil {
				t.Errorf("error %v", err)
			}
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v lacks %q", err, want)
				}
			}
		})
	}
}

// TestCheckTrustOfTheSystem takes a CA that this machine trusts anyway, if it has any.
func TestCheckTrustOfTheSystem(t *testing.T) {
	for _, bundle := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
		all, err := certificates(bundle)
		if err != nil {
			continue
		}
		if !slices.ContainsFunc(all, func(c *stdx509.Certificate) bool { return systemTrusts(c, "") }) {
			t.Errorf("the system trusts no certificate of its own %s", bundle)
		}
		if systemTrusts(all[0], bundle) {
			t.Error("with SSL_CERT_FILE set the system's CAs do not count")
		}
		return
	}
	t.Skip("this system keeps its CAs elsewhere")
}
