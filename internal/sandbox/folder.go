package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	stdx509 "crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/siderolabs/crypto/x509"

	"cloudlab/internal/sopsfile"
)

// What the stack of the sandbox is configured with: Pulumi.sandbox.yaml names the same.
const (
	// ProxmoxAddress is the simulated Proxmox API, FactoryAddress the simulated Image Factory.
	ProxmoxAddress = "192.0.2.2:8006"
	FactoryAddress = "factory.talos.dev:443"
	// TokenID is the API token that the sandbox's program uses.
	TokenID = "cloudlab@pve!sandbox"
	// Project is the Pulumi project.
	Project = "cloudlab"
	// Stack is the Pulumi stack.
	Stack = "sandbox"
)

// Folder is the one place where a sandbox keeps its state. It is private to the user: it holds throw-away keys.
//
//	project/    what a project folder holds: stack settings, encrypted secrets and credentials, the sandbox's age key
//	backend/    Pulumi's state
//	pulumi/     Pulumi's home: the command and the plugins
//	toolchain/  what was built from source
//	hardware/   what the simulated hardware remembers: disks, images, keys; its address while it runs
type Folder string

// Project is where the program's files are.
func (f Folder) Project() string { return filepath.Join(string(f), "project") }

// Pulumi is Pulumi's home.
func (f Folder) Pulumi() string { return filepath.Join(string(f), "pulumi") }

// Toolchain holds what was built.
func (f Folder) Toolchain() string { return filepath.Join(string(f), "toolchain") }

func (f Folder) backend() string             { return filepath.Join(string(f), "backend") }
func (f Folder) hardware(name string) string { return filepath.Join(string(f), "hardware", name) }
func (f Folder) caFile() string              { return filepath.Join(f.Project(), "proxmox-ca.pem") }
func (f Folder) ageKeyFile() string          { return filepath.Join(f.Project(), sopsfile.KeyFileName) }
func (f Folder) passphraseFile() string      { return filepath.Join(f.Project(), ".passphrase") }

// sopsRules are the creation rules of the sandbox's project folder.
const sopsRules = `# Written by the sandbox: its files are encrypted to its own throw-away key.
creation_rules:
  - path_regex: \.enc\.(json|ya?ml)$
    age: %s
`

// Prepare makes the folder and what does not exist in it yet: keys, certificates, encrypted secrets. It may be called again.
func (f Folder) Prepare(ctx context.Context) error {
	for _, dir := range []string{f.Project(), f.backend(), f.hardware(""), f.Toolchain()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("sandbox folder: %w", err)
		}
	}
	if err := f.preparePassphrase(); err != nil {
		return fmt.Errorf("sandbox folder: passphrase: %w", err)
	}
	if err := f.prepareSecrets(ctx); err != nil {
		return fmt.Errorf("sandbox folder: secrets: %w", err)
	}
	if err := f.prepareCA(); err != nil {
		return fmt.Errorf("sandbox folder: certificate authority: %w", err)
	}
	return nil
}

func (f Folder) preparePassphrase() error {
	if exists(f.passphraseFile()) {
		return nil
	}
	return writeFile(f.passphraseFile(), []byte(rand.Text()))
}

func (f Folder) prepareSecrets(ctx context.Context) error {
	if !exists(f.ageKeyFile()) {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return err
		}
		text := fmt.Sprintf("# throw-away key of a sandbox\n# public key: %s\n%s\n", identity.Recipient(), identity)
		if err := writeFile(f.ageKeyFile(), []byte(text)); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(f.Project(), ".sops.yaml"), fmt.Appendf(nil, sopsRules, identity.Recipient())); err != nil {
			return err
		}
	}
	secret := filepath.Join(f.Project(), "secrets.enc.json")
	if exists(secret) {
		return nil
	}
	plain, err := json.Marshal(map[string]string{sopsfile.TokenKey: TokenID + "=" + tokenSecret()})
	if err != nil {
		return err
	}
	_, err = sopsfile.Write(ctx, secret, plain, sopsfile.Options{ProjectDir: f.Project()})
	return err
}

// tokenSecret has the form of Proxmox's: a random UUID.
func tokenSecret() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[0:4], raw[4:6], raw[6:8], raw[8:10], raw[10:16])
}

func (f Folder) token() (sopsfile.Token, error) {
	secrets, err := sopsfile.ReadSecrets(f.Project(), sopsfile.Options{ProjectDir: f.Project()})
	if err != nil {
		return sopsfile.Token{}, err
	}
	return secrets.ProxmoxAPIToken, nil
}

func (f Folder) prepareCA() error {
	if exists(f.caFile()) && exists(f.hardware("ca.key")) {
		return nil
	}
	now := time.Now()
	ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true), x509.CommonName("Cloudlab sandbox CA"), x509.Organization("Cloudlab sandbox"),
		x509.NotBefore(now.Add(-time.Hour)), x509.NotAfter(now.AddDate(5, 0, 0)))
	if err != nil {
		return err
	}
	if err := writeFile(f.hardware("ca.key"), ca.KeyPEM); err != nil {
		return err
	}
	return writeFile(f.caFile(), ca.CrtPEM)
}

// certificate makes a server certificate of the sandbox's CA.
func (f Folder) certificate(names ...string) (tls.Certificate, error) {
	crt, err := os.ReadFile(f.caFile())
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := os.ReadFile(f.hardware("ca.key"))
	if err != nil {
		return tls.Certificate{}, err
	}
	ca, err := x509.NewCertificateAuthorityFromCertificateAndKey(&x509.PEMEncodedCertificateAndKey{Crt: crt, Key: key})
	if err != nil {
		return tls.Certificate{}, err
	}
	var dns []string
	var ips []net.IP
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, name)
		}
	}
	now := time.Now()
	pair, err := x509.NewKeyPair(ca, x509.ECDSA(true), x509.CommonName(names[0]), x509.DNSNames(dns), x509.IPAddresses(ips),
		x509.NotBefore(now.Add(-time.Hour)), x509.NotAfter(now.AddDate(1, 0, 0)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature), x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageServerAuth}))
	if err != nil {
		return tls.Certificate{}, err
	}
	return *pair.Certificate, nil
}

// roots trusts the sandbox's CA and nobody else.
func (f Folder) roots() (*stdx509.CertPool, error) {
	pem, err := os.ReadFile(f.caFile())
	if err != nil {
		return nil, err
	}
	pool := stdx509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", f.caFile())
	}
	return pool, nil
}

// HasState tells whether Pulumi keeps the stack already.
func (f Folder) HasState() bool {
	return exists(filepath.Join(f.backend(), ".pulumi", "stacks", Project, Stack+".json"))
}

// Configure puts a stack configuration and the project's settings where Pulumi reads them. program is the folder of the Pulumi
// program, so that an installed pulumi can be used by hand. What Pulumi itself keeps in the file, the salt of its secrets,
// stays.
func (f Folder) Configure(program string, stackFile []byte) error {
	settings, err := os.ReadFile(filepath.Join(program, "Pulumi.yaml"))
	if err != nil {
		return fmt.Errorf("sandbox folder: %w", err)
	}
	settings = append(bytes.TrimRight(settings, "\n"), fmt.Appendf(nil, "\nmain: %s\n", program)...)
	if err := writeFile(filepath.Join(f.Project(), "Pulumi.yaml"), settings); err != nil {
		return fmt.Errorf("sandbox folder: %w", err)
	}
	target := filepath.Join(f.Project(), "Pulumi."+Stack+".yaml")
	present, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox folder: %w", err)
	}
	for line := range strings.Lines(string(present)) {
		if strings.HasPrefix(line, "encryptionsalt:") {
			stackFile = append(bytes.TrimRight(stackFile, "\n"), "\n"+line...)
		}
	}
	if err := writeFile(target, stackFile); err != nil {
		return fmt.Errorf("sandbox folder: %w", err)
	}
	return nil
}

// Environ is what the program, the plugins and people's clients need to reach the sandbox and nothing else. proxy is the running
// hardware's.
func (f Folder) Environ(proxy string) []string {
	return []string{
		"HTTPS_PROXY=" + proxy, "https_proxy=" + proxy, "NO_PROXY=127.0.0.1,localhost,::1", "no_proxy=127.0.0.1,localhost,::1",
		"SSL_CERT_FILE=" + f.caFile(),
		// curl prefers this one, and some builds know no other.
		"CURL_CA_BUNDLE=" + f.caFile(),
		"SOPS_AGE_KEY=", "SOPS_AGE_KEY_FILE=" + f.ageKeyFile(),
		// Beside each file of the state Pulumi would write another with its attributes, which nobody needs, and which a kill
		// leaves empty: no operation would work any more ("failed to load checkpoint: EOF").
		"PULUMI_BACKEND_URL=file://" + f.backend() + "?metadata=skip",
		"PULUMI_CONFIG_PASSPHRASE_FILE=" + f.passphraseFile(),
		"PULUMI_CONFIG_PASSPHRASE=",
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeFile replaces a file as a whole, readable by the user only.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// Forget removes all state but the tool chain.
func (f Folder) Forget() error {
	for _, name := range []string{"project", "backend", "pulumi", "hardware", "hardware.log", "kubeconfig", "talosconfig"} {
		if err := os.RemoveAll(filepath.Join(string(f), name)); err != nil {
			return fmt.Errorf("sandbox folder: %w", err)
		}
	}
	return nil
}

// LockHolder tells which process holds the lock of the stack's state, and whether it is alive.
func (f Folder) LockHolder() (pid int, alive bool, err error) {
	locks, err := filepath.Glob(filepath.Join(f.backend(), ".pulumi", "locks", "organization", Project, Stack, "*.json"))
	if err != nil {
		return 0, false, fmt.Errorf("stack lock: %w", err)
	}
	for _, path := range locks {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("stack lock: %w", err)
		}
		var lock struct {
			PID int `json:"pid"`
		}
		if err := json.Unmarshal(raw, &lock); err != nil {
			return 0, false, fmt.Errorf("stack lock %s: %w", path, err)
		}
		pid = lock.PID
		if engineAlive(pid) {
			return pid, true, nil
		}
	}
	return pid, false, nil
}
