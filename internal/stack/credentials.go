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

// write leaves files alone that already say the same.
func (c credentials) write(ctx context.Context, stack string, contents map[string]string) ([]string, error) {
	for _, kind := range kinds() {
		name := CredentialFile(kind, stack)
		if _, err := sopsfile.Write(ctx, filepath.Join(c.dir, name), []byte(contents[kind]), c.keys); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
	}
	return names(stack), nil
}

// WriteCredentials writes them from a stack's outputs; it is what `mise run config:export` does. contents maps a kind to its text.
func WriteCredentials(ctx context.Context, dir, stack string, contents map[string]string, keys sopsfile.Options) ([]string, error) {
	for _, kind := range kinds() {
		if contents[kind] == "" {
			return nil, fmt.Errorf("credentials: stack %q has no %s: run up first", stack, kind)
		}
	}
	return credentials{dir: dir, keys: keys}.write(ctx, stack, contents)
}
