package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sopsfile"
)

// TestEarlyErrors: what is wrong with configuration and secrets is said before the first resource is registered and before
// anybody is called, in words that a person can act on.
func TestEarlyErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *lab, *configuration)
		want  []string
	}{
		{"all defects of the configuration at once", breakConfiguration, []string{
			`cluster.talosVersion: "1.13.9" is not`,
			`nodes.cp-1.adress: "adress" is not a known key`,
			`nodes.cp-1.memory: 8 is not`,
			`proxmox.datastores.disks: "disks" is not a known key: write disk`,
		}},
		{"no secrets file", func(t *testing.T, l *lab, _ *configuration) {
			t.Helper()
			remove(t, l.projectFile("secrets.enc.json"))
		}, []string{"no secrets file", "secrets.enc.json", "mise run setup"}},
		{"no age identity", func(t *testing.T, l *lab, _ *configuration) {
			t.Helper()
			remove(t, l.projectFile(sopsfile.KeyFileName))
		}, []string{"SOPS_AGE_KEY_FILE", sopsfile.KeyFileName}},
		{"another age identity", breakIdentity, []string{"secrets.enc.json", "age1"}},
		{"malformed token", breakToken, []string{"secrets.enc.json", sopsfile.TokenKey, "USER@REALM!TOKENID=SECRET"}},
		{"unencrypted secrets", breakEncryption, []string{"secrets.enc.json", "not encrypted", "sops"}},
		{"CA that the plugin does not trust", breakTrust, []string{"proxmox.tls.caFile", "does not trust", "CN=other CA", "SSL_CERT_FILE"}},
		{
			"no CA file", func(_ *testing.T, _ *lab, c *configuration) { c.proxmox["tls"] = object{"caFile": "absent.pem"} },
			[]string{"proxmox.tls.caFile", "absent.pem does not exist", "pve-root-ca.pem"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			c := sandboxStack(t)
			test.spoil(t, l, c)
			r := l.refused(c, "up")
			for _, want := range test.want {
				if !strings.Contains(r.output, want) {
					t.Errorf("the error does not say %q:\n%s", want, tail(r.output, 40))
				}
			}
			if calls := l.Proxmox.Requests(); len(calls) > 0 {
				t.Errorf("Proxmox was called: %+v", calls)
			}
			if calls := l.Factory.Requests(); len(calls) > 0 {
				t.Errorf("the Image Factory was called: %v", calls)
			}
			for _, resource := range l.resources() {
				if !strings.Contains(resource, "::pulumi:pulumi:Stack::") {
					t.Errorf("registered: %s", resource)
				}
			}
		})
	}
}

func breakConfiguration(_ *testing.T, _ *lab, c *configuration) {
	c.cluster["talosVersion"] = "1.13.9"
	c.proxmox["datastores"] = object{"disks": "local-lvm"}
	c.node("cp-1")["adress"] = "192.0.2.11/24"
	c.node("cp-1")["memory"] = 8
}

func breakIdentity(t *testing.T, l *lab, _ *configuration) {
	t.Helper()
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, l.projectFile(sopsfile.KeyFileName), other.String()+"\n")
}

func breakToken(t *testing.T, l *lab, _ *configuration) {
	t.Helper()
	l.encryptSecrets(`{"` + sopsfile.TokenKey + `": "root@pam"}`)
}

func breakEncryption(t *testing.T, l *lab, _ *configuration) {
	t.Helper()
	write(t, l.projectFile("secrets.enc.json"), `{"`+sopsfile.TokenKey+`": "`+sandbox.TokenID+`=00000000-0000-0000-0000-000000000000"}`)
}

// breakTrust configures a CA that is not in SSL_CERT_FILE.
func breakTrust(t *testing.T, l *lab, c *configuration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "other CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, l.projectFile("other-ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
	c.proxmox["tls"] = object{"caFile": "other-ca.pem"}
}

func (l *lab) projectFile(name string) string { return filepath.Join(l.Folder().Project(), name) }

// encryptSecrets replaces the program's secrets.
func (l *lab) encryptSecrets(plain string) {
	l.t.Helper()
	dir := l.Folder().Project()
	if _, err := sopsfile.Write(l.t.Context(), l.projectFile("secrets.enc.json"), []byte(plain), sopsfile.Options{ProjectDir: dir}); err != nil {
		l.t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
