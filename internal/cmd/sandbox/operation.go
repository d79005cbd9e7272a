package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cloudlab/internal/sandbox"
	"cloudlab/internal/sandbox/engine"
	"cloudlab/internal/sopsfile"
	"cloudlab/internal/stack"
)

type operationFunc func(*engine.Engine, context.Context) (engine.Summary, error)

func preview(diff bool) operationFunc {
	return func(e *engine.Engine, ctx context.Context) (engine.Summary, error) { return e.Preview(ctx, diff) }
}

// unlocked runs an operation, after taking away the lock of an engine that was killed.
func (o *settings) unlocked(ctx context.Context, e *engine.Engine, do operationFunc) (engine.Summary, error) {
	summary, err := do(e, ctx)
	if err == nil || !engine.Locked(err) {
		return summary, err
	}
	folder, folderErr := o.folder()
	if folderErr != nil {
		return nil, folderErr
	}
	holder, alive, lockErr := folder.LockHolder()
	if lockErr != nil {
		return nil, fmt.Errorf("%w: %w", err, lockErr)
	}
	if alive {
		return nil, fmt.Errorf("another operation runs on this sandbox (process %d): wait for it to end", holder)
	}
	o.people.Warn("removing the lock of process %d, which ended without doing so", holder)
	if err := e.Unlock(ctx); err != nil {
		return nil, fmt.Errorf("remove the stack's lock: %w", err)
	}
	return do(e, ctx)
}

// decryptCredentials writes the credentials in clear into the sandbox's folder, readable by the user only, and names them.
func decryptCredentials(folder sandbox.Folder) ([]string, error) {
	var variables []string
	for kind, variable := range map[string]string{"kubeconfig": "KUBECONFIG", "talosconfig": "TALOSCONFIG"} {
		encrypted := filepath.Join(folder.Project(), stack.CredentialFile(kind, sandbox.Stack))
		if _, err := os.Stat(encrypted); err != nil {
			continue
		}
		plain, err := sopsfile.Decrypt(encrypted, sopsfile.Options{ProjectDir: folder.Project()})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(string(folder), kind)
		if err := os.WriteFile(path, plain, 0o600); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		variables = append(variables, variable+"="+path)
	}
	return variables, nil
}
