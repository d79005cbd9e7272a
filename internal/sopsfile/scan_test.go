package sopsfile

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// planted makes secrets of every kind for one test.
type planted struct {
	age, pkcs8, ec, talos, openSSH, publicKey string
}

func plant(t *testing.T) planted {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return planted{
		age:       newIdentity(t).String(),
		pkcs8:     block("PRIVATE KEY", pkcs8),
		ec:        block("EC PRIVATE KEY", ec),
		talos:     block("ED25519 PRIVATE KEY", pkcs8),
		openSSH:   block("OPENSSH PRIVATE KEY", pkcs8),
		publicKey: block("PUBLIC KEY", pkix) + block("CERTIFICATE", pkix),
	}
}

// pulumiSecret is Pulumi's mark of a secret.
const pulumiSecret = "1b47061264138c4a" + "c30d75fd1eb44270"

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func quoted(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestScanFindsPlantedSecrets(t *testing.T) {
	s := plant(t)
	secret44 := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 32)))
	bootstrap := "abc123" + "." + "0123456789abcdef"
	for _, tc := range []struct {
		name, content string
		want          []string
	}{
		{".age-key.txt", "# public key: age1…\n" + s.age + "\n", []string{":2: age private key"}},
		{"log", "level=info msg=\"key is " + s.age + "\"", []string{":1: age private key"}},
		{"tls.key", "\n" + s.pkcs8, []string{":2: private key"}},
		{"ec.key", s.ec, []string{":1: private key"}},
		{"id", s.openSSH, []string{":1: private key"}},
		{"kubeconfig", "kind: Config\nusers:\n- user:\n    client-certificate-data: " + b64(s.publicKey) + "\n    client-key-data: " + b64(s.ec) + "\n", []string{":5: private key (base64)"}},
		{"talosconfig", "context: c\ncontexts:\n  c:\n    ca: " + b64(s.publicKey) + "\n    crt: " + b64(s.publicKey) + "\n    key: " + b64(s.talos), []string{":6: private key (base64)"}},
		{
			"machine-secrets.yaml", "cluster:\n  id: x\n  secret: " + secret44 + "\nsecrets:\n  bootstraptoken: " + bootstrap + "\n  secretboxencryptionsecret: " + secret44 + "\ntrustdinfo:\n  token: " + bootstrap + "\ncerts:\n  os:\n    key: " + b64(s.talos) + "\n",
			[]string{":3: Talos machine secret", ":5: Talos machine secret", ":6: Talos machine secret", ":8: Talos machine secret", ":11: private key (base64)"},
		},
		{"state.json", quoted(t, map[string]any{"machineSecrets": map[string]any{"cluster": map[string]any{"secret": secret44}}}), []string{":1: Talos machine secret"}},
		{"state with JSON in JSON", quoted(t, map[string]any{"body": quoted(t, map[string]any{"bootstrapToken": bootstrap, "k": s.pkcs8})}), []string{":1: private key", ":1: Talos machine secret"}},
		{"shown.json", quoted(t, map[string]any{"4dabf18193072939515e22adb298388d": pulumiSecret, "plaintext": "\"x\""}), []string{":1: Pulumi secret in clear"}},
		{"token.txt", testToken, []string{":1: Proxmox API token"}},
		{"header.log", "GET /version Authorization: PVEAPIToken=" + testToken, []string{":1: Proxmox API token"}},
		{"ticket.log", "Cookie: PVEAuthCookie=PVE:root@pam:65A0B1C2::" + strings.Repeat("Ab1+", 20), []string{":1: Proxmox ticket"}},
		{"jwt.yaml", "token: eyJhbGciOiJSUzI1NiJ9." + "eyJzdWIiOiJzeXN0ZW0ifQ." + strings.Repeat("a1_-", 10), []string{":1: JSON web token"}},
		{"secret.yaml", "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n  a: QQ==\nstringData:\n  b: hunter2\n", []string{":9: Kubernetes Secret in clear (data.a)", ":11: Kubernetes Secret in clear (stringData.b)"}},
		{"list.yaml", "apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Secret\n    data:\n      a: QQ==\n", []string{":7: Kubernetes Secret in clear (data.a)"}},
		{"secret.json", `{"kind":"Secret","apiVersion":"v1","stringData":{"a":"b"}}`, []string{":1: Kubernetes Secret in clear (stringData.a)"}},
		{"template.yaml", "{{- if .Values.x }}\napiVersion: v1\nkind: Secret\nstringData:\n  a: hunter2\n{{- end }}\n", []string{":3: Kubernetes Secret in clear (in a file that is not valid YAML)"}},
		{"nested.yaml", "kubeconfig: " + b64("client-key-data: "+b64(s.ec)), []string{":1: private key (base64)"}},
		{"glued.log", "path/x" + b64(s.ec), []string{":1: private key (base64)"}},
		{"secrets.enc.json", `{"password": "hunter2"}`, []string{": not encrypted although its name says so (file is not encrypted (no sops metadata))"}},
		{"clusters/a/db.sops.yaml", "apiVersion: v1\nkind: Secret\nstringData:\n  b: hunter2\n", []string{": not encrypted although its name says so (file is not encrypted (no sops metadata))", ":4: Kubernetes Secret in clear (stringData.b)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, f := range Scan(tc.name, []byte(tc.content)) {
				got = append(got, strings.TrimPrefix(f.String(), tc.name))
				for _, secret := range []string{"hunter2", testSecret, s.age[20:], bootstrap, secret44} {
					if strings.Contains(fmt.Sprintf("%+v", f), secret) {
						t.Error("a finding shows its secret")
					}
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScanLeavesTheRestAlone(t *testing.T) {
	s := plant(t)
	p := newProject(t)
	p.file("clusters/x", "", 0o600)
	p.write("kubeconfig.a.enc.yaml", "users:\n  - user:\n      client-key-data: "+b64(s.ec)+"\n")
	p.write("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`)
	p.write("clusters/db.sops.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {a: hunter2, empty: \"\"}\n")
	for name, content := range map[string]string{
		"kubeconfig.a.enc.yaml": p.read("kubeconfig.a.enc.yaml"),
		"secrets.enc.json":      p.read("secrets.enc.json"),
		"db.sops.yaml":          p.read("clusters/db.sops.yaml"),
		".sops.yaml":            p.read(".sops.yaml"),
		"db.yaml":               p.read("clusters/db.sops.yaml"),
		"state.json":            quoted(t, map[string]any{"4dabf18193072939515e22adb298388d": pulumiSecret, "ciphertext": "v1:" + b64(strings.Repeat("n", 12)) + ":" + b64(strings.Repeat("\xf1", 500))}),
		"certificates.pem":      s.publicKey,
		"kubeconfig":            "clusters: [{cluster: {certificate-authority-data: " + b64(s.publicKey) + "}}]\nusers: [{user: {exec: {command: x}}}]\n",
		"README.md":             "Write `terraform@pve!cloudlab=00000000-0000-0000-0000-000000000000` or `terraform@pve!cloudlab=<uuid>`; -----BEGIN ... keys; AGE-SECRET-KEY-1...\nkind: Secret\n",
		"digests.yaml":          "image: x@sha256:" + strings.Repeat("ab", 32) + "\nh1: " + b64(strings.Repeat("h", 32)) + "\n",
		"empty-secret.yaml":     "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {}\n",
		"external.yaml":         "apiVersion: secrets.infisical.com/v1alpha1\nkind: InfisicalSecret\ndata: {a: b}\n",
		"binary":                "\x00\xff" + strings.Repeat("\x01", 100),
		"empty":                 "",
		"recipients":            p.identity.Recipient().String(),
	} {
		for _, f := range Scan(name, []byte(content)) {
			t.Errorf("false alarm: %s", f)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add("a.enc.yaml", "a: b\nsops: {}\n")
	f.Add("x", "kind: Secret\napiVersion: v1\ndata: {a: &a [*a]}")
	f.Add("y", strings.Repeat("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t", 3))
	f.Fuzz(func(t *testing.T, name, content string) {
		for _, finding := range Scan(name, []byte(content)) {
			if finding.Kind == "" || finding.Line < 0 {
				t.Errorf("finding %+v", finding)
			}
		}
	})
}
