package stack

import (
	"context"
	"fmt"
	"path/filepath"

	"cloudlab/internal/sopsfile"
)

// The credentials' kinds, as the first part of their files' names.
const (
	kubeconfig     = "kubeconfig"
	machineSecrets = "machine-secrets"
	talosconfig    = "talosconfig"
)

// credentials writes the encrypted credentials of a stack.
type credentials struct {
	dir  string
	keys sopsfile.Options
}

// CredentialFile names the encrypted file of one kind ("kubeconfig", "talosconfig" or "machine-secrets") of a stack.
func CredentialFile(kind, stack string) string { return kind + "." + stack + ".enc.yaml" }

func kinds() []string { return []string{kubeconfig, machineSecrets, talosconfig} }

func names(stack string) []string {
	var all []string
	for _, kind := range kinds() {
		all = append(all, CredentialFile(kind, stack))
	}
	return all
}

// Written is what became of one credential's file.
type Written struct {
	// Name of the file, e.g. kubeconfig.cloudlab.enc.yaml.
	Name string
	// Changed is false for a file that already said the same and was left alone.
	Changed bool
}

// write leaves files alone that already say the same.
func (c credentials) write(ctx context.Context, stack string, contents map[string]string) ([]Written, error) {
	var all []Written
	for _, kind := range kinds() {
		name := CredentialFile(kind, stack)
		changed, err := sopsfile.Write(ctx, filepath.Join(c.dir, name), []byte(contents[kind]), c.keys)
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		all = append(all, Written{Name: name, Changed: changed})
	}
	return all, nil
}

// WriteCredentials writes them from a stack's outputs, by the outputs' names; it is what `mise run config:export` does.
func WriteCredentials(ctx context.Context, dir, stack string, outputs map[string]string, keys sopsfile.Options) ([]Written, error) {
	contents := map[string]string{}
	for kind, output := range map[string]string{kubeconfig: "kubeconfig", machineSecrets: "machineSecrets", talosconfig: "talosconfig"} {
		if outputs[output] == "" {
			return nil, fmt.Errorf("credentials: stack %q has no output %s: run `up` first", stack, output)
		}
		contents[kind] = outputs[output]
	}
	return credentials{dir: dir, keys: keys}.write(ctx, stack, contents)
}
