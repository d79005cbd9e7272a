package stack

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/siderolabs/crypto/x509"
	machinery "github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"go.yaml.in/yaml/v3"

	"cloudlab/internal/config"
	"cloudlab/internal/pulumimock"
	"cloudlab/internal/sandbox/lan"
	"cloudlab/internal/sopsfile"
)

const (
	schematicID = "c23d16533980fd972f96a79cc22130404615c16de18f43da4a40d801d4fe8d6a"
	// What the mocked provider answers with, to be found again.
	mockKubeconfig, mockTalosconfig, mockConfig = "kind: Config\n", "context: lab\n", "machine config\n"

	vmType        = "proxmoxve:VM/virtualMachine:VirtualMachine"
	fileType      = "proxmoxve:Download/file:File"
	secretsType   = "talos:machine/secrets:Secrets"
	applyType     = "talos:machine/configurationApply:ConfigurationApply"
	kubeType      = "talos:cluster/kubeconfig:Kubeconfig"
	schematicType = "talos:imageFactory/schematic:Schematic"
)

// project is a project's folder with secrets for a throw-away key.
type project struct {
	t        *testing.T
	dir      string
	stack    string // configuration, as in Pulumi.<stack>.yaml
	preview  bool
	identity *age.X25519Identity
}

func newProject(t *testing.T, fixture string) *project {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join("..", "config", "testdata", "valid", fixture+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p := &project{t: t, dir: t.TempDir(), stack: string(raw), identity: identity}
	for _, name := range []string{"SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE", "SSL_CERT_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("XDG_CONFIG_HOME", p.dir)
	p.write(sopsfile.KeyFileName, identity.String())
	p.write(".sops.yaml", fmt.Sprintf("creation_rules:\n  - path_regex: \\.enc\\.(json|yaml)$\n    age: %s\n", identity.Recipient()))
	token := "cloudlab@pve!test=" + strings.Repeat("0f", 4) + "-1a2b-3c4d-5e6f-" + strings.Repeat("7d", 6)
	plain, err := json.Marshal(map[string]string{sopsfile.TokenKey: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sopsfile.Write(t.Context(), p.path("secrets.enc.json"), plain, p.keys()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *project) keys() sopsfile.Options  { return sopsfile.Options{ProjectDir: p.dir} }
func (p *project) path(name string) string { return filepath.Join(p.dir, name) }

func (p *project) write(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// replace changes the configuration.
func (p *project) replace(old, replacement string) {
	p.t.Helper()
	if !strings.Contains(p.stack, old) {
		p.t.Fatalf("the configuration does not contain %q", old)
	}
	p.stack = strings.Replace(p.stack, old, replacement, 1)
}

func (p *project) cluster() *config.Cluster {
	p.t.Helper()
	cluster, err := config.ParseStackFile([]byte(p.stack))
	if err != nil {
		p.t.Fatal(err)
	}
	return cluster
}

// deploy runs the program as `pulumi up`, or preview, of stack test.
func (p *project) deploy() (*pulumimock.Recording, error) {
	p.t.Helper()
	run := pulumimock.Run{
		Project: "cloudlab", Stack: "test", Dir: p.dir, Config: p.config(), Preview: p.preview,
		Outputs: outputs(p.t), Invoke: invoke,
	}
	return run.Record(p.t, Deploy)
}

// config hands the configuration over as Pulumi does: JSON text per key.
func (p *project) config() map[string]string {
	p.t.Helper()
	var file struct {
		Config map[string]any `yaml:"config"`
	}
	if err := yaml.Unmarshal([]byte(p.stack), &file); err != nil {
		p.t.Fatal(err)
	}
	values := map[string]string{}
	for key, value := range file.Config {
		raw, err := json.Marshal(value)
		if err != nil {
			p.t.Fatal(err)
		}
		values[key] = string(raw)
	}
	return values
}

// must deploys, with Talos APIs at the nodes' addresses.
func (p *project) must() *pulumimock.Recording {
	p.t.Helper()
	listenTalos(p.t, p.cluster())
	recording, err := p.deploy()
	if err != nil {
		p.t.Fatal(err)
	}
	return recording
}

// listenTalos answers TLS at every node's address on a simulated network, which the program reaches through the proxy variable.
func listenTalos(t *testing.T, cluster *config.Cluster) {
	t.Helper()
	network, err := lan.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(ca.CrtPEM, ca.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	var servers sync.WaitGroup
	t.Cleanup(func() { _ = network.Close(); servers.Wait() })
	for _, node := range cluster.Nodes {
		listener, err := network.Listen(net.JoinHostPort(node.Address.Addr().String(), "50000"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		servers.Go(func() { greet(listener, pair) })
	}
	t.Setenv("HTTPS_PROXY", network.ProxyURL())
	t.Setenv("NO_PROXY", "127.0.0.1,localhost")
}

func greet(listener net.Listener, pair tls.Certificate) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}).Handshake()
		_ = conn.Close()
	}
}

// throwAway are machine secrets that live as long as the test binary.
var throwAway = sync.OnceValues(func() (*secrets.Bundle, error) {
	return secrets.NewBundle(secrets.NewFixedClock(time.Now()), machinery.TalosVersion1_13)
})

// outputs answers as the providers would.
func outputs(t *testing.T) func(pulumimock.Registration) resource.PropertyMap {
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	return func(r pulumimock.Registration) resource.PropertyMap {
		switch r.Type {
		case schematicType:
			return properties(map[string]any{"id": schematicID})
		case secretsType:
			return properties(map[string]any{"machineSecrets": machineSecretsOf(bundle), "clientConfiguration": map[string]any{
				"caCertificate": "Y2E=", "clientCertificate": "Y3J0", "clientKey": "a2V5",
			}})
		case vmType:
			return properties(map[string]any{
				"macAddresses":  []any{"00:00:00:00:00:00"},
				"ipv4Addresses": []any{[]any{"127.0.0.1"}}, "ipv6Addresses": []any{[]any{"::1"}},
			})
		case kubeType:
			return properties(map[string]any{"kubeconfigRaw": mockKubeconfig})
		}
		return nil
	}
}

func invoke(token string, _ resource.PropertyMap) (resource.PropertyMap, error) {
	switch token {
	case "talos:machine/getConfiguration:getConfiguration":
		return properties(map[string]any{"machineConfiguration": mockConfig}), nil
	case "talos:client/getConfiguration:getConfiguration":
		return properties(map[string]any{"talosConfig": mockTalosconfig}), nil
	}
	return nil, fmt.Errorf("unexpected function %s", token)
}

func properties(values map[string]any) resource.PropertyMap {
	return resource.NewPropertyMapFromMap(values)
}

// machineSecretsOf is the provider's form of a secrets bundle.
func machineSecretsOf(b *secrets.Bundle) map[string]any {
	text := base64.StdEncoding.EncodeToString
	pair := func(c *x509.PEMEncodedCertificateAndKey) map[string]any {
		return map[string]any{"cert": text(c.Crt), "key": text(c.Key)}
	}
	return map[string]any{
		"cluster":    map[string]any{"id": b.Cluster.ID, "secret": b.Cluster.Secret},
		"secrets":    map[string]any{"bootstrapToken": b.Secrets.BootstrapToken, "secretboxEncryptionSecret": b.Secrets.SecretboxEncryptionSecret},
		"trustdinfo": map[string]any{"token": b.TrustdInfo.Token},
		"certs": map[string]any{
			"etcd": pair(b.Certs.Etcd), "k8s": pair(b.Certs.K8s), "k8sAggregator": pair(b.Certs.K8sAggregator), "os": pair(b.Certs.OS),
			"k8sServiceaccount": map[string]any{"key": text(b.Certs.K8sServiceAccount.Key)},
		},
	}
}

// files lists what is in the project's folder, with its content.
func (p *project) files() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(p.path(entry.Name()))
		if err != nil {
			p.t.Fatal(err)
		}
		all[entry.Name()] = string(raw)
	}
	return maps.Clone(all)
}
