package sopsfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
)

// ExampleRecipient stands in the repository's .sops.yaml until the operator's own is put there. Nobody has its
// private key, so [Write] refuses it.
const ExampleRecipient = "age1x30axu0nvzqys3lzfrr0a40d7853daz9hqw0q3zf0dn2pxlwt54s5zzwp2"

const fileMode fs.FileMode = 0o600

// sopsVersion goes into the metadata. The library's own constant would pull in a command line framework.
const sopsVersion = "3.13.3"

// Write encrypts plaintext (YAML or JSON by path's extension) by the rule for path in the nearest .sops.yaml at or above
// its directory, and puts it at path atomically with mode 0600. It reports whether the content changed.
//
// A file that already holds the same plaintext under the same rule is left alone, apart from its mode. An existing sops
// file that no identity at hand decrypts is replaced; any other file is refused with [ErrNotOurs].
// No identity is needed to encrypt, but without one each Write is a change.
//
// Other errors: [ErrNoRule], [ErrBadRule], [ErrMalformed], [ErrUnsupported], [ErrWrite], [ErrBadIdentity], [ErrKeyFileMode].
func Write(ctx context.Context, path string, plaintext []byte, opts Options) (changed bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return false, fmt.Errorf("resolve %s: %w", path, err)
	}
	rule, err := ruleFor(path)
	if err != nil {
		return false, err
	}
	old, err := existing(path)
	if err != nil {
		return false, err
	}
	sealed, canonical, err := seal(path, plaintext, rule)
	if err != nil {
		return false, err
	}
	if old != nil {
		same, err := upToDate(path, old, canonical, rule, opts)
		if err != nil {
			return false, err
		}
		if same {
			return false, tighten(path)
		}
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	err = replace(path, func(w io.Writer) error {
		_, err := w.Write(sealed)
		return err
	})
	if err != nil {
		return false, &Error{Kind: ErrWrite, Path: path, What: "cannot write the file", Next: "check free space and the directory's owner; an existing file is intact", Err: err}
	}
	return true, nil
}

// ruleFor returns the empty metadata of a file that the matching creation rule makes.
func ruleFor(path string) (sops.Metadata, error) {
	found, err := config.LookupConfigFile(path)
	if err != nil {
		return sops.Metadata{}, &Error{Kind: ErrNoRule, Path: path, What: "no .sops.yaml at or above the file's directory", Next: "run `mise run setup`"}
	}
	rule, err := config.LoadCreationRuleForFile(found.Path, path, nil)
	if err != nil || rule == nil {
		if rel, relErr := filepath.Rel(filepath.Dir(found.Path), path); relErr == nil && (err == nil || noRuleMatches(err)) {
			return sops.Metadata{}, &Error{Kind: ErrNoRule, Path: found.Path, What: "no creation rule matches " + rel, Next: "add a rule with a path_regex for it"}
		}
		return sops.Metadata{}, &Error{Kind: ErrBadRule, Path: found.Path, What: "cannot use the creation rules", Next: "correct the file", Err: err}
	}
	meta := sops.Metadata{
		KeyGroups:               rule.KeyGroups,
		ShamirThreshold:         rule.ShamirThreshold,
		UnencryptedSuffix:       rule.UnencryptedSuffix,
		EncryptedSuffix:         rule.EncryptedSuffix,
		UnencryptedRegex:        rule.UnencryptedRegex,
		EncryptedRegex:          rule.EncryptedRegex,
		UnencryptedCommentRegex: rule.UnencryptedCommentRegex,
		EncryptedCommentRegex:   rule.EncryptedCommentRegex,
		MACOnlyEncrypted:        rule.MACOnlyEncrypted,
		Version:                 sopsVersion,
	}
	if selector(meta) == (selection{MACOnlyEncrypted: meta.MACOnlyEncrypted}) {
		// The sops command does the same, so that both write files which the other leaves alone.
		meta.UnencryptedSuffix = sops.DefaultUnencryptedSuffix
	}
	return meta, checkRecipients(found.Path, meta)
}

// noRuleMatches recognises the one failure of the library that is not a defect of the file; it has no sentinel.
func noRuleMatches(err error) bool {
	return err.Error() == "error loading config: no matching creation rules found"
}

func checkRecipients(rulesFile string, meta sops.Metadata) error {
	bad := func(what, next string) error {
		return &Error{Kind: ErrBadRule, Path: rulesFile, What: what, Next: next}
	}
	if meta.MasterKeyCount() == 0 {
		return bad("creation rule names no recipient", "add the operator's age public key")
	}
	for _, group := range meta.KeyGroups {
		for _, key := range group {
			if key.TypeToIdentifier() != sopsage.KeyTypeIdentifier {
				return bad("creation rule names a "+key.TypeToIdentifier()+" key", "use age recipients only")
			}
			if key.ToString() == ExampleRecipient {
				return bad("creation rule still names the example recipient, whose private key nobody has", "run `mise run setup` to put your own public key there")
			}
		}
	}
	return nil
}

// selection is the part of a rule that says which values are encrypted.
type selection struct {
	UnencryptedSuffix, EncryptedSuffix, UnencryptedRegex, EncryptedRegex string
	UnencryptedCommentRegex, EncryptedCommentRegex                       string
	MACOnlyEncrypted                                                     bool
}

func selector(m sops.Metadata) selection {
	return selection{
		m.UnencryptedSuffix, m.EncryptedSuffix, m.UnencryptedRegex, m.EncryptedRegex,
		m.UnencryptedCommentRegex, m.EncryptedCommentRegex, m.MACOnlyEncrypted,
	}
}

// existing reads what stands at path: nil when there is nothing, an error when it is not ours to replace.
func existing(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Kind: ErrWrite, Path: path, What: "cannot look at the file", Next: "check the directory's owner and mode", Err: pathless(err)}
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Kind: ErrUnsupported, Path: path, What: "not a regular file", Next: "remove it"}
	}
	raw, err := read(path)
	if err != nil {
		return nil, err
	}
	if _, _, err := load(path, raw); err != nil && !errors.Is(err, ErrUnsupported) {
		return nil, &Error{Kind: ErrNotOurs, Path: path, What: "refusing to replace a file that is not a sops file", Next: "move it away if it is no longer needed", Err: err}
	}
	return raw, nil
}

// seal encrypts plaintext and returns, with it, the plaintext that a later decryption of it yields.
func seal(path string, plaintext []byte, rule sops.Metadata) (sealed, canonical []byte, err error) {
	store, err := formatOf(path)
	if err != nil {
		return nil, nil, err
	}
	branches, err := store.LoadPlainFile(plaintext)
	if err != nil || len(branches) == 0 {
		what := "plaintext is empty"
		if err != nil {
			what = "plaintext is " + parseProblem(store.name, err)
		}
		return nil, nil, &Error{Kind: ErrMalformed, Path: path, What: what, Next: "give a " + store.name + " mapping"}
	}
	if store.HasSopsTopLevelKey(branches[0]) {
		return nil, nil, &Error{Kind: ErrMalformed, Path: path, What: "plaintext has a top-level key named sops", Next: "give plaintext that is not encrypted already"}
	}
	tree := sops.Tree{Branches: branches, Metadata: rule, FilePath: path}
	key, errs := tree.GenerateDataKeyWithKeyServices([]keyservice.KeyServiceClient{&ageService{}})
	if len(errs) > 0 {
		return nil, nil, &Error{Kind: ErrBadRule, Path: path, What: "cannot encrypt for a recipient", Next: "check the recipients in .sops.yaml", Err: errors.Join(errs...)}
	}
	refused := &Error{Kind: ErrMalformed, Path: path, What: "plaintext holds a value that sops cannot encrypt", Next: "use strings, numbers, booleans, lists and mappings"}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(key, cipher)
	if err != nil {
		return nil, nil, refused
	}
	tree.Metadata.LastModified = time.Now().UTC()
	tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, key, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		return nil, nil, refused
	}
	if sealed, err = store.EmitEncryptedFile(tree); err != nil {
		return nil, nil, refused
	}
	if err := CheckEncrypted(path, sealed); err != nil {
		return nil, nil, &Error{Kind: ErrBadRule, Path: path, What: "the rule in .sops.yaml would leave the content in clear", Next: "correct its encrypted_regex or path_regex", Err: err}
	}
	store, reread, err := load(path, sealed)
	if err != nil {
		return nil, nil, err
	}
	canonical, err = open(path, store, reread, key)
	return sealed, canonical, err
}

// upToDate tells whether the existing file already says what a new one would.
func upToDate(path string, old, canonical []byte, rule sops.Metadata, opts Options) (bool, error) {
	ids, err := opts.Identities()
	if errors.Is(err, ErrNoIdentity) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, tree, err := load(path, old)
	if err != nil || CheckEncrypted(path, old) != nil || selector(tree.Metadata) != selector(rule) {
		return false, nil //nolint:nilerr // a file that cannot be read is not up to date: it is written anew
	}
	if !sameRecipients(tree.Metadata, rule) {
		return false, nil
	}
	plain, err := decrypt(path, old, ids)
	// A file that does not decrypt is replaced: the caller holds the truth.
	return err == nil && bytes.Equal(plain, canonical), nil
}

func sameRecipients(a, b sops.Metadata) bool {
	return slices.EqualFunc(a.KeyGroups, b.KeyGroups, func(a, b sops.KeyGroup) bool {
		one := recipients(sops.Metadata{KeyGroups: []sops.KeyGroup{a}})
		two := recipients(sops.Metadata{KeyGroups: []sops.KeyGroup{b}})
		slices.Sort(one)
		slices.Sort(two)
		return slices.Equal(one, two)
	})
}

// tighten takes others' rights off a file that is left alone otherwise.
func tighten(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm() != fileMode {
		err = os.Chmod(path, fileMode)
	}
	if err != nil {
		return &Error{Kind: ErrWrite, Path: path, What: "cannot set mode 0600", Next: "check the file's owner", Err: pathless(err)}
	}
	return nil
}

// replace puts what write produces at path, or changes nothing.
func replace(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, discard(tmp))
		}
	}()
	if err := write(tmp); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func discard(tmp *os.File) error {
	// Closing twice is harmless, and the first failure is the one that counts.
	_ = tmp.Close()
	if err := os.Remove(tmp.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes the rename durable. Some file systems cannot sync a directory; the file itself is safe by then.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer func() { _ = d.Close() }()
	_ = d.Sync()
	return nil
}
