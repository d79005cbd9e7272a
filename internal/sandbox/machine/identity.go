package machine

import (
	"bytes"
	"crypto/tls"
	stdx509 "crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/role"
)

// identity is a machine's TLS material: how it serves, and how it calls other machines (control planes only).
type identity struct {
	server *tls.Config
	client *tls.Config
	ips    []net.IP
	// basis tells apart what was certified: names, addresses, CAs.
	basis string
}

// same is true when other certifies nothing new.
func (i *identity) same(other *identity) bool {
	return i != nil && other != nil && i.basis == other.basis
}

func (i *identity) covers(addr netip.Addr) bool {
	return slices.ContainsFunc(i.ips, func(ip net.IP) bool { return ip.Equal(net.IP(addr.AsSlice())) })
}

// identity issues the certificates of the API.
func (s *system) identity(maintenance bool, issuer *x509.PEMEncodedCertificateAndKey) (*identity, error) {
	own, held := s.addresses()
	ips := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, p := range own {
		ips = append(ips, net.IP(p.Addr().AsSlice()))
	}
	for _, v := range held {
		ips = append(ips, net.IP(v.AsSlice()))
	}
	if maintenance {
		return maintenanceIdentity(ips)
	}
	cfg := s.completeConfig()
	if cfg == nil {
		return nil, errors.New("no configuration")
	}
	names := []string{s.hostname()}
	for _, san := range cfg.Machine().Security().CertSANs() {
		if ip := net.ParseIP(san); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, san)
		}
	}
	ca, err := x509.NewCertificateAuthorityFromCertificateAndKey(issuer)
	if err != nil {
		return nil, fmt.Errorf("machine CA: %w", err)
	}
	server, err := issue(ca, stdx509.ExtKeyUsageServerAuth, x509.IPAddresses(ips), x509.DNSNames(names), x509.CommonName(s.hostname()))
	if err != nil {
		return nil, err
	}
	pool, err := acceptedCAs(cfg)
	if err != nil {
		return nil, err
	}
	basis := fmt.Sprint(ips, names, string(issuer.Crt))
	for _, accepted := range cfg.Machine().Security().AcceptedCAs() {
		basis += string(accepted.Crt)
	}
	id := &identity{ips: ips, basis: basis, server: &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{server},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, VerifyPeerCertificate: requireClientAuth,
	}}
	if !cfg.Machine().Type().IsControlPlane() {
		return id, nil
	}
	client, err := issue(ca, stdx509.ExtKeyUsageClientAuth, x509.CommonName(s.hostname()), x509.Organization(string(role.Impersonator)))
	if err != nil {
		return nil, err
	}
	id.client = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{client}, RootCAs: pool}
	return id, nil
}

func maintenanceIdentity(ips []net.IP) (*identity, error) {
	ca, err := x509.NewSelfSignedCertificateAuthority(x509.ECDSA(true), x509.Organization("talos"))
	if err != nil {
		return nil, fmt.Errorf("maintenance CA: %w", err)
	}
	const name = "maintenance-service.talos.dev"
	server, err := issue(ca, stdx509.ExtKeyUsageServerAuth, x509.IPAddresses(ips), x509.DNSNames([]string{name}), x509.CommonName(name))
	if err != nil {
		return nil, err
	}
	return &identity{ips: ips, server: &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{server},
	}}, nil
}

func issue(ca *x509.CertificateAuthority, usage stdx509.ExtKeyUsage, options ...x509.Option) (tls.Certificate, error) {
	options = append(options,
		x509.NotBefore(time.Now().Add(-10*time.Second)),
		x509.NotAfter(time.Now().Add(x509.DefaultCertificateValidityDuration)),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature),
		x509.ExtKeyUsage([]stdx509.ExtKeyUsage{usage}),
	)
	pair, err := x509.NewKeyPair(ca, options...)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue a certificate: %w", err)
	}
	encoded := x509.NewCertificateAndKeyFromKeyPair(pair)
	cert, err := tls.X509KeyPair(encoded.Crt, encoded.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("load the issued certificate: %w", err)
	}
	return cert, nil
}

// acceptedCAs are the CAs whose clients a machine accepts.
func acceptedCAs(cfg config.Provider) (*stdx509.CertPool, error) {
	pool := stdx509.NewCertPool()
	var pem [][]byte
	if ca := cfg.Machine().Security().IssuingCA(); ca != nil {
		pem = append(pem, ca.Crt)
	}
	for _, ca := range cfg.Machine().Security().AcceptedCAs() {
		pem = append(pem, ca.Crt)
	}
	if !pool.AppendCertsFromPEM(bytes.Join(pem, []byte("\n"))) {
		return nil, errors.New("the configuration has no accepted CA (.machine.ca)")
	}
	return pool, nil
}

// requireClientAuth refuses certificates that are not for clients alone.
func requireClientAuth(_ [][]byte, chains [][]*stdx509.Certificate) error {
	if len(chains) == 0 {
		return errors.New("no verified chains")
	}
	for _, cert := range chains[0] {
		if !cert.IsCA && !slices.Equal(cert.ExtKeyUsage, []stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}) {
			return fmt.Errorf("certificate %q is missing the client auth extended key usage", cert.Subject)
		}
	}
	return nil
}
