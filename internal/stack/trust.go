package stack

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// checkTrust makes sure that the Proxmox plugin will trust the configured CA. The plugin takes no CA of its own: it is started by the
// engine and trusts the system's CAs, or those in SSL_CERT_FILE. The program inherits the same environment, so it can tell.
func checkTrust(caFile string, getenv func(string) string) error {
	wanted, err := certificates(caFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("proxmox.tls.caFile: %s does not exist: copy /etc/pve/pve-root-ca.pem from the Proxmox node there", caFile)
	case err != nil:
		return fmt.Errorf("proxmox.tls.caFile: %w", err)
	}
	bundle := getenv("SSL_CERT_FILE")
	var trusted []*x509.Certificate
	if bundle != "" {
		if trusted, err = certificates(bundle); err != nil {
			return fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
	}
	for _, certificate := range wanted {
		if !holds(trusted, certificate) && !systemTrusts(certificate, bundle) {
			return fmt.Errorf("proxmox.tls.caFile: the Proxmox plugin does not trust %q yet: run `mise run trust` once (without mise: "+
				"`go run ./internal/cmd/trust`, and `export SSL_CERT_FILE=$PWD/.trust.pem` before pulumi), or add it to the system's CAs",
				certificate.Subject)
		}
	}
	return nil
}

func systemTrusts(certificate *x509.Certificate, bundle string) bool {
	if bundle != "" {
		return false
	}
	_, err := certificate.Verify(x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func holds(all []*x509.Certificate, wanted *x509.Certificate) bool {
	for _, certificate := range all {
		if bytes.Equal(certificate.Raw, wanted.Raw) {
			return true
		}
	}
	return false
}

func certificates(file string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return all, nil
}
