package trust

import (
	"crypto/x509"
	"fmt"
	"os"
)

// FromEnvironment replaces the system's roots by those in SSL_CERT_FILE, when it is set. On macOS Go asks the system's verifier and
// ignores the variable; with the GODEBUG setting x509usefallbackroots=1, which the plugins' main packages make, fallback roots win.
func FromEnvironment() error {
	file := os.Getenv("SSL_CERT_FILE")
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("SSL_CERT_FILE: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("SSL_CERT_FILE: %s holds no certificate", file)
	}
	x509.SetFallbackRoots(roots)
	return nil
}
