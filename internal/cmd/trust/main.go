// Command trust writes .trust.pem: the system's certificate authorities and the one that the stack's configuration names for
// Proxmox (proxmox.tls.caFile). The Proxmox plugin has no setting for an authority of its own, it believes SSL_CERT_FILE, and
// the mise tasks point that to the file as soon as it exists.
//
// Programs on macOS ask the keychain and ignore SSL_CERT_FILE; there the command changes nothing and says what to do.
package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"cloudlab/internal/config"
)

// bundleName is the file that the command writes, ignored by git.
const bundleName = ".trust.pem"

func main() {
	stack := os.Getenv("CLOUDLAB_STACK")
	if stack == "" {
		stack = "cloudlab"
	}
	system := systemBundles()
	if before := os.Getenv("SSL_CERT_FILE"); before != "" && filepath.Base(before) != bundleName {
		system = []string{before}
	}
	if err := run(".", stack, runtime.GOOS, system, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "trust: %v\n", err)
		os.Exit(1)
	}
}

// systemBundles are the places where distributions keep the system's authorities.
func systemBundles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem",
		"/etc/ssl/cert.pem",
	}
}

// run writes the bundle of the stack whose configuration is in dir. system are the candidates for the system's bundle, of
// which the first that exists counts.
func run(dir, stack, goos string, system []string, stdout io.Writer) error {
	name := "Pulumi." + stack + ".yaml"
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("stack configuration: %w (CLOUDLAB_STACK chooses another stack)", err)
	}
	cluster, err := config.ParseStackFile(content)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ca := cluster.Proxmox.TLS.CAFile
	if ca == "" {
		fmt.Fprintf(stdout, "%s names no proxmox.tls.caFile: the system's authorities are enough\n", name)
		return nil
	}
	if !filepath.IsAbs(ca) {
		ca = filepath.Join(dir, ca)
	}
	own, err := os.ReadFile(ca)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("proxmox.tls.caFile: %s does not exist: copy /etc/pve/pve-root-ca.pem from the Proxmox node there", ca)
	}
	if err != nil {
		return fmt.Errorf("proxmox.tls.caFile: %w", err)
	}
	if block, _ := pem.Decode(own); block == nil || block.Type != "CERTIFICATE" {
		return fmt.Errorf("proxmox.tls.caFile: %s holds no PEM certificate", ca)
	}
	if goos == "darwin" {
		return fmt.Errorf("macOS trusts its keychain only: run `sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain %s`", ca)
	}
	bundle, err := first(system)
	if err != nil {
		return err
	}
	bundle = append(bytes.TrimRight(bundle, "\n"), '\n')
	target := filepath.Join(dir, bundleName)
	if err := os.WriteFile(target, append(bundle, own...), 0o644); err != nil { //nolint:gosec // certificates are public
		return fmt.Errorf("bundle: %w", err)
	}
	fmt.Fprintf(stdout, "wrote %s: the system's authorities and %s\n", target, ca)
	return nil
}

// first returns the content of the first file that exists.
func first(paths []string) ([]byte, error) {
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err == nil {
			return content, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("system's authorities: %w", err)
		}
	}
	return nil, fmt.Errorf("system's authorities: none of %q exists: set SSL_CERT_FILE to the system's bundle", paths)
}
