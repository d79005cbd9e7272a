package talos

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumiverse/pulumi-talos/sdk/go/talos/machine"
	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"go.yaml.in/yaml/v4"

	"cloudlab/internal/config"
)

// Secrets are the cluster's roots of trust. They cannot be rebuilt: a cluster with other secrets is another cluster.
type Secrets struct {
	pulumi.ResourceState

	// Owner identifies this incarnation of the cluster: other secrets, other owner. It is not secret.
	Owner pulumi.StringOutput
	// Bundle is the secrets bundle in the form of `talosctl gen secrets`, for disaster recovery. Secret.
	Bundle pulumi.StringOutput

	machine machine.MachineSecretsOutput
	client  machine.ClientConfigurationOutput
}

// NewSecrets generates the secrets once.
func NewSecrets(ctx *pulumi.Context, name string, cluster *config.Cluster, opts ...pulumi.ResourceOption) (*Secrets, error) {
	s := &Secrets{}
	if err := ctx.RegisterComponentResourceV2("cloudlab:talos:Secrets", name, pulumi.Map{}, s, opts...); err != nil {
		return nil, fmt.Errorf("machine secrets: %w", err)
	}
	generated, err := machine.NewSecrets(ctx, name, &machine.SecretsArgs{TalosVersion: pulumi.String(cluster.TalosVersion)},
		pulumi.Parent(s),
		pulumi.Protect(cluster.Protect),
		pulumi.AdditionalSecretOutputs([]string{"machineSecrets", "clientConfiguration"}),
		// The version only chooses the form of the secrets when they are made; lowering it later would replace them.
		pulumi.IgnoreChanges([]string{"talosVersion"}))
	if err != nil {
		return nil, fmt.Errorf("machine secrets: %w", err)
	}
	s.machine = pulumi.ToSecret(generated.MachineSecrets).(machine.MachineSecretsOutput)
	s.client = pulumi.ToSecret(generated.ClientConfiguration).(machine.ClientConfigurationOutput)
	// A hash of the cluster's ID, which is public in every discovery message, says nothing about the keys.
	s.Owner = pulumi.Unsecret(s.machine.Cluster().Id().ApplyT(func(id string) string {
		sum := sha256.Sum256([]byte(id))
		return hex.EncodeToString(sum[:6])
	})).(pulumi.StringOutput)
	s.Bundle = s.machine.ApplyT(bundle).(pulumi.StringOutput)
	if err := ctx.RegisterResourceOutputs(s, pulumi.Map{"owner": s.Owner}); err != nil {
		return nil, fmt.Errorf("machine secrets: %w", err)
	}
	return s, nil
}

func bundle(s machine.MachineSecrets) (string, error) {
	pair := func(name string, c machine.Certificate) (*x509.PEMEncodedCertificateAndKey, error) {
		certificate, err := base64.StdEncoding.DecodeString(c.Cert)
		if err != nil {
			return nil, fmt.Errorf("machine secrets: %s certificate: %w", name, err)
		}
		key, err := base64.StdEncoding.DecodeString(c.Key)
		if err != nil {
			return nil, fmt.Errorf("machine secrets: %s key: %w", name, err)
		}
		return &x509.PEMEncodedCertificateAndKey{Crt: certificate, Key: key}, nil
	}
	certs := &secrets.Certs{}
	for _, c := range []struct {
		name string
		from machine.Certificate
		to   **x509.PEMEncodedCertificateAndKey
	}{
		{"etcd", s.Certs.Etcd, &certs.Etcd},
		{"kubernetes", s.Certs.K8s, &certs.K8s},
		{"aggregator", s.Certs.K8sAggregator, &certs.K8sAggregator},
		{"talos", s.Certs.Os, &certs.OS},
	} {
		decoded, err := pair(c.name, c.from)
		if err != nil {
			return "", err
		}
		*c.to = decoded
	}
	key, err := base64.StdEncoding.DecodeString(s.Certs.K8sServiceaccount.Key)
	if err != nil {
		return "", fmt.Errorf("machine secrets: service account key: %w", err)
	}
	certs.K8sServiceAccount = &x509.PEMEncodedKey{Key: key}
	b := secrets.Bundle{
		Cluster: &secrets.Cluster{ID: s.Cluster.Id, Secret: s.Cluster.Secret},
		Secrets: &secrets.Secrets{BootstrapToken: s.Secrets.BootstrapToken, SecretboxEncryptionSecret: s.Secrets.SecretboxEncryptionSecret},
		TrustdInfo: &secrets.TrustdInfo{
			Token: s.Trustdinfo.Token,
		},
		Certs: certs,
	}
	if s.Secrets.AescbcEncryptionSecret != nil {
		b.Secrets.AESCBCEncryptionSecret = *s.Secrets.AescbcEncryptionSecret
	}
	text, err := yaml.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("machine secrets: %w", err)
	}
	return string(text), nil
}
