package sopsfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"
	sopsage "github.com/getsops/sops/v3/age"
)

// KeyFileName is the operator's age key in the project directory.
const KeyFileName = ".age-key.txt"

// Options says where age identities come from. Nothing else is looked at: no SSH keys, no other environment variable.
// The zero value knows no identity, with which [Write] can still encrypt.
type Options struct {
	// AgeKey holds identities (SOPS_AGE_KEY), separated by white space.
	AgeKey string
	// AgeKeyFile is a file of identities, one a line (SOPS_AGE_KEY_FILE).
	AgeKeyFile string
	// ProjectDir is the directory whose [KeyFileName] is used when it exists; empty skips it.
	ProjectDir string
	// DefaultKeyFile is used when all places above are unset; a missing file is fine. Empty skips it.
	DefaultKeyFile string
}

// FromEnvironment fills Options for a project directory from the environment as sops does:
// SOPS_AGE_KEY, SOPS_AGE_KEY_FILE and sops/age/keys.txt in the user's configuration directory.
// getenv is [os.Getenv] outside of tests.
func FromEnvironment(projectDir string, getenv func(string) string) Options {
	opts := Options{
		AgeKey:     getenv(sopsage.SopsAgeKeyEnv),
		AgeKeyFile: getenv(sopsage.SopsAgeKeyFileEnv),
		ProjectDir: projectDir,
	}
	config := getenv("XDG_CONFIG_HOME")
	if config == "" {
		// On macOS this is where sops looks, too: Library/Application Support.
		if dir, err := os.UserConfigDir(); err == nil {
			config = dir
		}
	}
	if config != "" {
		opts.DefaultKeyFile = filepath.Join(config, filepath.FromSlash(sopsage.SopsAgeKeyUserConfigPath))
	}
	return opts
}

// Identities are the age identities at hand. Formatting them shows public keys only.
type Identities struct {
	parsed sopsage.ParsedIdentities
	public []string
}

// Recipients lists the public keys, in the order in which the identities are tried.
func (i *Identities) Recipients() []string { return append([]string(nil), i.public...) }

// String lists the public keys.
func (i *Identities) String() string { return strings.Join(i.public, ", ") }

// GoString is String, so that no verb prints a private key.
func (i *Identities) GoString() string { return i.String() }

// Identities collects every identity from SOPS_AGE_KEY, SOPS_AGE_KEY_FILE and the project's key file, in this order,
// and falls back to sops' default key file. A place that is set but unusable is an error, never skipped.
// Errors: [ErrNoIdentity], [ErrBadIdentity], [ErrKeyFileMode].
func (o Options) Identities() (*Identities, error) {
	ids := &Identities{}
	var looked []string
	if strings.TrimSpace(o.AgeKey) != "" {
		if err := ids.add(sopsage.SopsAgeKeyEnv, o.AgeKey, "set SOPS_AGE_KEY to the line that starts with AGE-SECRET-KEY-1"); err != nil {
			return nil, err
		}
	}
	looked = append(looked, sopsage.SopsAgeKeyEnv)
	if o.AgeKeyFile != "" {
		if err := ids.addFile(o.AgeKeyFile, false); err != nil {
			return nil, err
		}
	}
	looked = append(looked, sopsage.SopsAgeKeyFileEnv)
	if o.ProjectDir != "" {
		path := filepath.Join(o.ProjectDir, KeyFileName)
		looked = append(looked, path)
		if err := ids.addFile(path, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if o.DefaultKeyFile != "" && len(ids.parsed) == 0 {
		looked = append(looked, o.DefaultKeyFile)
		if err := ids.addFile(o.DefaultKeyFile, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(ids.parsed) == 0 {
		return nil, &Error{
			Kind: ErrNoIdentity,
			What: "no age identity found (looked at " + strings.Join(looked, ", ") + ")",
			Next: "run `mise run setup`, or put the key into " + KeyFileName + " with mode 0600",
		}
	}
	return ids, nil
}

func (i *Identities) addFile(path string, private bool) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = errors.New("is a directory")
	}
	if err != nil {
		return &Error{Kind: ErrBadIdentity, Path: path, What: "cannot read the age key file", Next: "check SOPS_AGE_KEY_FILE and the file's owner", Err: pathless(err)}
	}
	if mode := info.Mode().Perm(); private && mode&0o077 != 0 {
		return &Error{
			Kind: ErrKeyFileMode, Path: path,
			What: fmt.Sprintf("age key file has mode %04o, others can read or change it", mode),
			Next: "run `chmod 600 " + path + "`, and replace the key if this machine has other users",
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return &Error{Kind: ErrBadIdentity, Path: path, What: "cannot read the age key file", Next: "check the file's owner and mode", Err: pathless(err)}
	}
	return i.add(path, string(text), "it must hold a line that starts with AGE-SECRET-KEY-1, as age-keygen writes it")
}

// add parses the identities in text. Causes are dropped: a parser's message may quote the key.
func (i *Identities) add(place, text, next string) error {
	found := false
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for _, word := range strings.Fields(line) {
			before := len(i.parsed)
			if err := i.parsed.Import(word); err != nil {
				return &Error{Kind: ErrBadIdentity, Path: place, What: fmt.Sprintf("line %d is %s", n+1, mistakenFor(word)), Next: next}
			}
			for _, id := range i.parsed[before:] {
				i.public = append(i.public, publicKey(id))
			}
			found = true
		}
	}
	if !found {
		return &Error{Kind: ErrBadIdentity, Path: place, What: "holds no age identity", Next: next}
	}
	return nil
}

// mistakenFor names what stands where an identity should, without quoting it.
func mistakenFor(word string) string {
	switch {
	case strings.HasPrefix(word, "age1"):
		return "an age public key, not a private one"
	case strings.HasPrefix(word, "-----BEGIN AGE"):
		return "a passphrase-protected age file, which is not supported"
	case strings.HasPrefix(word, "ssh-"), strings.HasPrefix(word, "-----BEGIN"):
		return "an SSH or PEM key, not an age identity"
	case strings.HasPrefix(strings.ToUpper(word), "AGE-SECRET-KEY-"):
		return "a damaged age identity (wrong length, case or checksum)"
	}
	return "not an age identity"
}

func publicKey(id age.Identity) string {
	switch id := id.(type) {
	case *age.X25519Identity:
		return id.Recipient().String()
	case *age.HybridIdentity:
		return id.Recipient().String()
	case *plugin.Identity:
		return "plugin " + id.Name()
	}
	return "unknown kind"
}

// pathless takes the path out of a file system error, because the message names it already.
func pathless(err error) error {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}
