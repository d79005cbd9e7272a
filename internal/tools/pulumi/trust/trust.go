// Package trust makes the plugins trust the CAs in SSL_CERT_FILE where Go itself does not look at that variable.
package trust
