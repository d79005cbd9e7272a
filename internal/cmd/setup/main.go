// Command setup prepares a clone for its operator: it makes the age key when there is none, enters its recipient into
// .sops.yaml and says what is left to do by hand. It may run any number of times; what is there already stays as it is.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"cloudlab/internal/sopsfile"
)

func main() {
	keyFile := os.Getenv("SOPS_AGE_KEY_FILE")
	if keyFile == "" {
		keyFile = ".age-key.txt"
	}
	if err := run(".", keyFile, time.Now(), os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "setup: %v\n", err)
		os.Exit(1)
	}
}

// run prepares the repository at dir; a relative keyFile is below dir.
func run(dir, keyFile string, now time.Time, stderr io.Writer) error {
	if !filepath.IsAbs(keyFile) {
		keyFile = filepath.Join(dir, keyFile)
	}
	recipients, created, err := ensureKey(keyFile, now)
	if err != nil {
		return err
	}
	if created {
		fmt.Fprintf(stderr, "✔ created the age key %s; keep a copy outside this machine: without it nothing here can be decrypted\n", keyFile)
	} else {
		fmt.Fprintf(stderr, "✔ age key %s\n", keyFile)
	}
	note, err := enterRecipient(filepath.Join(dir, ".sops.yaml"), recipients)
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, note)
	return printRest(dir, stderr)
}

// ensureKey returns the recipients of the identities in path. When there is no such file it creates one with a new identity.
func ensureKey(path string, now time.Time) (recipients []string, created bool, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		content, err = createKey(path, now)
		created = true
	}
	if err != nil {
		return nil, false, fmt.Errorf("age key: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, false, fmt.Errorf("age key: %w", err)
	}
	identities, err := age.ParseIdentities(bytes.NewReader(content))
	if err != nil {
		return nil, false, fmt.Errorf("age key %s: %w; move the file away to get a new key", path, err)
	}
	for _, identity := range identities {
		switch identity := identity.(type) {
		case *age.X25519Identity:
			recipients = append(recipients, identity.Recipient().String())
		case *age.HybridIdentity:
			recipients = append(recipients, identity.Recipient().String())
		}
	}
	if len(recipients) == 0 {
		return nil, false, fmt.Errorf("age key %s: holds no native age identity; move the file away to get a new key", path)
	}
	return recipients, created, nil
}

// createKey writes a new identity as age-keygen does and never over an existing file.
func createKey(path string, now time.Time) ([]byte, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	content := fmt.Appendf(nil, "# created: %s\n# public key: %s\n%s\n", now.Format(time.RFC3339), identity.Recipient(), identity)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(content)
	return content, errors.Join(err, file.Close())
}

// enterRecipient puts the first recipient where path has the example one, and returns what it did or what the operator should do.
func enterRecipient(path string, recipients []string) (note string, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("recipient: %w", err)
	}
	if bytes.Contains(content, []byte(sopsfile.ExampleRecipient)) {
		content = bytes.ReplaceAll(content, []byte(sopsfile.ExampleRecipient), []byte(recipients[0]))
		if err := replaceFile(path, content); err != nil {
			return "", fmt.Errorf("recipient: %w", err)
		}
		return "✔ entered the recipient " + recipients[0] + " into .sops.yaml; commit that", nil
	}
	for _, recipient := range recipients {
		if bytes.Contains(content, []byte(recipient)) {
			return "✔ recipient in .sops.yaml", nil
		}
	}
	return "⚠ .sops.yaml names other recipients than your key: someone who can decrypt must add " + recipients[0] +
		" there and run `sops updatekeys` on every *.enc.* file", nil
}

// replaceFile swaps path's content in one step, so that an interruption leaves the old file.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".setup-*")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// printRest names what only the operator can do, in its order.
func printRest(dir string, stderr io.Writer) error {
	fmt.Fprintln(stderr, "\nLeft to do:")
	var steps []string
	secrets, err := anyExists(dir, sopsfile.SecretsFileNames()...)
	if err != nil {
		return err
	}
	if !secrets {
		steps = append(steps, "write the Proxmox API token: `sops edit secrets.enc.json`, key proxmox_api_token, value USER@REALM!TOKENID=SECRET")
	}
	steps = append(steps,
		"describe the cluster in Pulumi.cloudlab.yaml",
		"choose where Pulumi keeps its state: `pulumi login` (or `pulumi login --local`), then `pulumi stack init cloudlab`",
		"`mise run preview`, then `mise run up`",
	)
	for i, step := range steps {
		fmt.Fprintf(stderr, "  %d. %s\n", i+1, step)
	}
	return nil
}

func anyExists(dir string, names ...string) (bool, error) {
	for _, name := range names {
		_, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}
