package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/base64"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sopsfile"
)

// noSecretInClear looks for secrets in everything that the sandbox and its processes have left behind: state, history, logs, what
// people saw, project files.
//
// Left out are the age key and Pulumi's passphrase, which are what all the rest is encrypted with, and the simulated
// hardware: its disks hold machine configs, as real disks do, and its CA's key.
func (l *lab) noSecretInClear() {
	l.t.Helper()
	secrets := l.secretValues()
	for name, content := range l.leftovers() {
		for _, leak := range leaks(name, content, secrets) {
			l.t.Errorf("in clear: %s", leak)
		}
	}
}

// leaks are the findings of the scan, and the known secrets that stand in content as they are or in base64.
func leaks(name string, content []byte, secrets map[string]string) []string {
	var all []string
	for _, finding := range sopsfile.Scan(name, content) {
		all = append(all, finding.String())
	}
	for kind, secret := range secrets {
		if bytes.Contains(content, []byte(secret)) || bytes.Contains(content, []byte(base64.StdEncoding.EncodeToString([]byte(secret)))) {
			all = append(all, name+": "+kind)
		}
	}
	return all
}

// secretValues are the secrets of this sandbox by a name for each.
func (l *lab) secretValues() map[string]string {
	l.t.Helper()
	_, secret, _ := strings.Cut(l.token(), "=")
	all := map[string]string{"API token's secret": secret}
	for _, kind := range []string{"machine-secrets", "kubeconfig", "talosconfig"} {
		var document yaml.Node
		if err := yaml.Unmarshal(l.decrypted(kind), &document); err != nil {
			l.t.Fatal(err)
		}
		collect(kind, &document, all)
	}
	for _, want := range []string{
		"machine-secrets.secrets.bootstraptoken", "machine-secrets.certs.os.key", "machine-secrets.certs.os.key (decoded)", "machine-secrets.cluster.secret",
		"machine-secrets.trustdinfo.token", "machine-secrets.certs.etcd.key", "kubeconfig.users.user.client-key-data",
	} {
		if all[want] == "" {
			l.t.Errorf("no %s among the secrets to look for: %v", want, slices.Sorted(maps.Keys(all)))
		}
	}
	return all
}

// collect takes the values that are secret by their key, and what is in them when they are base64 of PEM.
func collect(path string, node *yaml.Node, into map[string]string) {
	switch node.Kind {
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, child := range node.Content {
			collect(path, child, into)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			collect(path+"."+node.Content[i].Value, node.Content[i+1], into)
		}
	case yaml.ScalarNode:
		key := strings.ToLower(path[strings.LastIndex(path, ".")+1:])
		if !strings.Contains(key, "key") && !strings.Contains(key, "secret") && !strings.Contains(key, "token") || len(node.Value) < 16 {
			return
		}
		into[path] = node.Value
		if decoded, err := base64.StdEncoding.DecodeString(node.Value); err == nil {
			if lines := strings.Split(string(decoded), "\n"); strings.HasPrefix(lines[0], "-----BEGIN") && len(lines) > 1 {
				into[path+" (decoded)"] = lines[1]
			}
		}
	default: // an alias leads to what is seen elsewhere
	}
}

// leftovers maps names to contents of all files that have to be clean, and what people saw.
func (l *lab) leftovers() map[string][]byte {
	l.t.Helper()
	all := map[string][]byte{"(what people saw)": l.seen.Bytes()}
	top := string(l.Folder())
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if slices.Contains([]string{"hardware", "toolchain", "pulumi/bin", "pulumi/plugins"}, name) && entry.IsDir() {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() || slices.Contains([]string{"project/.age-key.txt", "project/.passphrase"}, name) {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all[name], err = unpacked(raw)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// unpacked reads Pulumi's log files, which are compressed. Those of the engine are encrypted with the stack's passphrase.
func unpacked(raw []byte) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		return raw, nil
	}
	reader, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(reader)
}

// TestPlantedSecret proves that noSecretInClear finds what it looks for.
func TestPlantedSecret(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.must(nil, "up")
	secrets := l.secretValues()
	state := filepath.Join("backend", ".pulumi", "stacks", sandbox.Project, sandbox.Stack+".json")
	for _, kind := range slices.Sorted(maps.Keys(secrets)) {
		content, ok := l.leftovers()[filepath.ToSlash(state)]
		if !ok {
			t.Fatalf("the stack's state is not looked at")
		}
		if found := leaks(state, content, secrets); len(found) > 0 {
			t.Fatalf("state before planting: %v", found)
		}
		for form, text := range map[string]string{"plain": secrets[kind], "base64": base64.StdEncoding.EncodeToString([]byte(secrets[kind]))} {
			planted := append(slices.Clone(content), []byte(`{"outputs": {"leak": "`+text+`"}}`)...)
			if found := leaks(state, planted, secrets); len(found) == 0 {
				t.Errorf("%s of %s not found", form, kind)
			}
		}
	}
	plain := l.decrypted("machine-secrets")
	if err := os.WriteFile(filepath.Join(string(l.Folder()), "backend", "planted.json"), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := leaks("planted.json", l.leftovers()["backend/planted.json"], secrets); len(found) < 10 {
		t.Errorf("planted machine secrets: only %v found", found)
	}
}

func certificates(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		t.Fatalf("%s holds no certificate", file)
	}
	return pool
}
