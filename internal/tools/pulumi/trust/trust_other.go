//go:build !darwin

package trust

// FromEnvironment does nothing: Go honours SSL_CERT_FILE here.
func FromEnvironment() error { return nil }
