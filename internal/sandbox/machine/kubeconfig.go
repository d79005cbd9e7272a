package machine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	stdx509 "crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"go.yaml.in/yaml/v4"
)

// kubeconfig is the administrator's kubeconfig, signed by the cluster's CA.
func kubeconfig(cluster config.ClusterConfig) ([]byte, error) {
	if cluster == nil || cluster.IssuingCA() == nil {
		return nil, errors.New("error getting Kubernetes CA: the configuration has none (.cluster.ca)")
	}
	ca, err := x509.NewCertificateAuthorityFromCertificateAndKey(cluster.IssuingCA())
	if err != nil {
		return nil, fmt.Errorf("error getting Kubernetes CA: %w", err)
	}
	admin := cluster.AdminKubeconfig()
	pair, err := x509.NewKeyPair(ca,
		x509.CommonName(admin.CommonName()), x509.Organization(admin.CertOrganization()),
		x509.NotBefore(time.Now().Add(-10*time.Second)), x509.NotAfter(time.Now().Add(admin.CertLifetime())),
		x509.KeyUsage(stdx509.KeyUsageDigitalSignature|stdx509.KeyUsageKeyEncipherment),
		x509.ExtKeyUsage([]stdx509.ExtKeyUsage{stdx509.ExtKeyUsageClientAuth}),
	)
	if err != nil {
		return nil, fmt.Errorf("error generating Kubernetes client certificate: %w", err)
	}
	client := x509.NewCertificateAndKeyFromKeyPair(pair)
	var cas []byte
	for _, accepted := range cluster.AcceptedCAs() {
		cas = append(cas, accepted.Crt...)
	}
	cas = append(cas, cluster.IssuingCA().Crt...)
	name, user := cluster.Name(), "admin@"+cluster.Name()
	type object = map[string]any
	return yaml.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "preferences": object{}, "current-context": user,
		"clusters": []object{{"name": name, "cluster": object{
			"server": cluster.Endpoint().String(), "certificate-authority-data": base64.StdEncoding.EncodeToString(cas),
		}}},
		"users": []object{{"name": user, "user": object{
			"client-certificate-data": base64.StdEncoding.EncodeToString(client.Crt), "client-key-data": base64.StdEncoding.EncodeToString(client.Key),
		}}},
		"contexts": []object{{"name": user, "context": object{"cluster": name, "namespace": "default", "user": user}}},
	})
}

// kubeconfigArchive wraps the kubeconfig as the API sends it: a gzipped tar with one file.
func kubeconfigArchive(cluster config.ClusterConfig, now time.Time) ([]byte, error) {
	content, err := kubeconfig(cluster)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "kubeconfig", Size: int64(len(content)), ModTime: now, Mode: 0o600}
	if err := archive.WriteHeader(header); err != nil {
		return nil, fmt.Errorf("kubeconfig archive: %w", err)
	}
	if _, err := archive.Write(content); err != nil {
		return nil, fmt.Errorf("kubeconfig archive: %w", err)
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("kubeconfig archive: %w", err)
	}
	if err := zipped.Close(); err != nil {
		return nil, fmt.Errorf("kubeconfig archive: %w", err)
	}
	return out.Bytes(), nil
}
