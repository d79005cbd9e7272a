package talos

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// bootstrapWait bounds the wait for etcd's bootstrap to be accepted.
const bootstrapWait = 3 * time.Minute

// bootstrapFirst is the hook before the kubeconfig is fetched for the first time. Bootstrap is no resource of its own: Talos accepts
// it once only, so that a run which dies between bootstrap and its record could never be repeated. Here the record is the
// kubeconfig's, and bootstrapping a node that already is does nothing. Once the kubeconfig is in the state, nothing bootstraps
// again, not even a control plane that lost its disk.
func bootstrapFirst(args *pulumi.ResourceHookArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootstrapWait)
	defer cancel()
	target, err := text(args.NewInputs, "endpoint")
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	node, err := text(args.NewInputs, "node")
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	credentials, err := credentials(plain(args.NewInputs["clientConfiguration"]))
	if err != nil {
		return fmt.Errorf("bootstrap %s: %w", target, err)
	}
	if err := bootstrap(ctx, node, target, credentials); err != nil {
		return err
	}
	return awaitKubeconfig(ctx, node, target, credentials)
}

// credentials reads the provider's client configuration: base64 of PEM.
func credentials(value resource.PropertyValue) (*tls.Config, error) {
	if !value.IsObject() {
		return nil, errors.New("client configuration must be known")
	}
	var pem [3][]byte
	for i, key := range []resource.PropertyKey{"caCertificate", "clientCertificate", "clientKey"} {
		encoded, err := text(value.ObjectValue(), key)
		if err != nil {
			return nil, fmt.Errorf("client configuration: %w", err)
		}
		if pem[i], err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, fmt.Errorf("client configuration: %s: %w", key, err)
		}
	}
	pair, err := tls.X509KeyPair(pem[1], pem[2])
	if err != nil {
		return nil, fmt.Errorf("client configuration: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem[0]) {
		return nil, errors.New("client configuration: no CA certificate")
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func text(values resource.PropertyMap, key resource.PropertyKey) (string, error) {
	value := plain(values[key])
	if !value.IsString() {
		return "", fmt.Errorf("%s must be known", key)
	}
	return value.StringValue(), nil
}

// plain takes a value out of its secret and output wrappings.
func plain(value resource.PropertyValue) resource.PropertyValue {
	for {
		switch {
		case value.IsSecret():
			value = value.SecretValue().Element
		case value.IsOutput() && value.OutputValue().Known:
			value = value.OutputValue().Element
		default:
			return value
		}
	}
}
