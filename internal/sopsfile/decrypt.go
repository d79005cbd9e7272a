package sopsfile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/stores/json"
	"github.com/getsops/sops/v3/stores/yaml"
	"google.golang.org/grpc"
)

// Decrypt returns the plaintext of a sops file in the form of its extension (.yaml, .yml or .json).
// Every value and the file's MAC are verified.
// Errors: [ErrMissing], [ErrUnsupported], [ErrMalformed], [ErrNotEncrypted], those of [Options.Identities],
// [ErrIdentityMismatch] and [ErrTampered].
func Decrypt(path string, opts Options) ([]byte, error) {
	raw, err := read(path)
	if err != nil {
		return nil, err
	}
	if err := CheckEncrypted(path, raw); err != nil {
		return nil, err
	}
	ids, err := opts.Identities()
	if err != nil {
		return nil, err
	}
	return decrypt(path, raw, ids)
}

func read(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Kind: ErrMissing, Path: path, What: "file does not exist", Next: "check the path, or create the file with `sops edit " + path + "`"}
	}
	if err != nil {
		return nil, &Error{Kind: ErrUnsupported, Path: path, What: "cannot read the file", Next: "check its owner and mode", Err: pathless(err)}
	}
	return raw, nil
}

// format is a sops store and its name for messages.
type format struct {
	sops.Store
	name string
}

func formatOf(path string) (format, error) {
	switch filepath.Ext(path) {
	case ".yaml", ".yml":
		return format{yaml.NewStore(&config.YAMLStoreConfig{}), "YAML"}, nil
	case ".json":
		return format{json.NewStore(&config.JSONStoreConfig{Indent: -1}), "JSON"}, nil
	}
	return format{}, &Error{Kind: ErrUnsupported, Path: path, What: "neither .yaml, .yml nor .json", Next: "rename the file"}
}

// load parses an encrypted file without decrypting it.
func load(path string, raw []byte) (format, sops.Tree, error) {
	store, err := formatOf(path)
	if err != nil {
		return store, sops.Tree{}, err
	}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return store, sops.Tree{}, &Error{Kind: ErrMalformed, Path: path, What: "file is empty", Next: "restore it from git"}
	}
	branches, err := store.LoadPlainFile(raw)
	if err != nil {
		return store, sops.Tree{}, &Error{Kind: ErrMalformed, Path: path, What: parseProblem(store.name, err), Next: "restore the file from git"}
	}
	if len(branches) == 0 || !store.HasSopsTopLevelKey(branches[0]) {
		return store, sops.Tree{}, &Error{Kind: ErrNotEncrypted, Path: path, What: "file is not encrypted (no sops metadata)", Next: encryptHint(path)}
	}
	tree, err := store.LoadEncryptedFile(raw)
	if err != nil {
		return store, sops.Tree{}, &Error{Kind: ErrMalformed, Path: path, What: "sops metadata is damaged", Next: "restore the file from git"}
	}
	return store, tree, nil
}

func encryptHint(path string) string {
	return "run `sops encrypt --in-place " + path + "`, and replace the secrets in it if the file was ever shared or committed"
}

// decrypt verifies and decrypts raw, which has passed [CheckEncrypted].
func decrypt(path string, raw []byte, ids *Identities) ([]byte, error) {
	store, tree, err := load(path, raw)
	if err != nil {
		return nil, err
	}
	service := &ageService{ids: ids}
	key, err := tree.Metadata.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{service}, sops.DefaultDecryptionOrder)
	if err != nil {
		return nil, service.explain(path, tree.Metadata)
	}
	return open(path, store, tree, key)
}

// open decrypts a tree with its data key. The library's causes are dropped, because they may quote values.
func open(path string, store format, tree sops.Tree, key []byte) ([]byte, error) {
	tampered := &Error{
		Kind: ErrTampered, Path: path,
		What: "content was changed after encryption (authentication failed)",
		Next: "restore the file from git, and change it only with `sops edit`",
	}
	cipher := aes.NewCipher()
	mac, err := tree.Decrypt(key, cipher)
	if err != nil {
		return nil, tampered
	}
	meta := tree.Metadata
	stored, err := cipher.Decrypt(meta.MessageAuthenticationCode, key, meta.LastModified.Format(time.RFC3339))
	if err != nil || stored != mac {
		return nil, tampered
	}
	plain, err := store.EmitPlainFile(tree.Branches)
	if err != nil {
		return nil, &Error{Kind: ErrMalformed, Path: path, What: "plaintext cannot be written as " + store.name, Next: "check the file with `sops decrypt`"}
	}
	return plain, nil
}

// ageService is a sops key service that speaks age only and uses only the identities it is given.
// The library's local service would fall back to SSH keys and the environment.
type ageService struct {
	ids     *Identities
	damaged bool // an identity matched but its stanza did not decrypt
}

var errNotAge = errors.New("only age keys are supported")

// Encrypt wraps a data key for a recipient.
func (*ageService) Encrypt(_ context.Context, req *keyservice.EncryptRequest, _ ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	key := req.GetKey().GetAgeKey()
	if key == nil {
		return nil, errNotAge
	}
	master, err := sopsage.MasterKeyFromRecipient(key.GetRecipient())
	if err != nil {
		return nil, err
	}
	if err := master.Encrypt(req.GetPlaintext()); err != nil {
		return nil, err
	}
	return &keyservice.EncryptResponse{Ciphertext: master.EncryptedDataKey()}, nil
}

// Decrypt unwraps a data key with the identities at hand.
func (s *ageService) Decrypt(_ context.Context, req *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	key := req.GetKey().GetAgeKey()
	if key == nil || s.ids == nil || len(s.ids.parsed) == 0 {
		return nil, errNotAge
	}
	master := &sopsage.MasterKey{Recipient: key.GetRecipient(), EncryptedKey: string(req.GetCiphertext())}
	s.ids.parsed.ApplyToMasterKey(master)
	plain, err := master.Decrypt()
	if err != nil {
		if noMatch := new(age.NoIdentityMatchError); !errors.As(err, &noMatch) {
			s.damaged = true
		}
		return nil, err
	}
	return &keyservice.DecryptResponse{Plaintext: plain}, nil
}

// explain says why no data key was found.
func (s *ageService) explain(path string, meta sops.Metadata) error {
	if s.damaged {
		return &Error{Kind: ErrTampered, Path: path, What: "encrypted data key in the sops metadata is damaged", Next: "restore the file from git"}
	}
	return &Error{
		Kind: ErrIdentityMismatch, Path: path,
		What: "encrypted for " + strings.Join(recipients(meta), ", ") + ", but the identities at hand are " + s.ids.String(),
		Next: "use the matching private key, or have someone who can decrypt it run `sops updatekeys " + path + "`",
	}
}

// recipients lists the age public keys of a file or rule, other kinds of keys with their kind.
func recipients(meta sops.Metadata) []string {
	var out []string
	for _, group := range meta.KeyGroups {
		for _, key := range group {
			name := key.ToString()
			if key.TypeToIdentifier() != sopsage.KeyTypeIdentifier {
				name = key.TypeToIdentifier() + " " + name
			}
			out = append(out, name)
		}
	}
	return out
}

// ciphertext is the form of an encrypted value.
var ciphertext = regexp.MustCompile(`^ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:[a-z]+\]$`)

// CheckEncrypted tells by its structure whether a file is encrypted: it carries sops metadata with recipients and a MAC,
// and every value that its metadata says is encrypted is ciphertext. It needs no identity and so proves no integrity.
// path decides the format and appears in errors. Errors: [ErrNotEncrypted], [ErrMalformed], [ErrUnsupported].
func CheckEncrypted(path string, raw []byte) error {
	_, tree, err := load(path, raw)
	if err != nil {
		return err
	}
	meta := tree.Metadata
	if meta.MasterKeyCount() == 0 || meta.MessageAuthenticationCode == "" {
		return &Error{Kind: ErrMalformed, Path: path, What: "sops metadata has no recipient or no MAC", Next: "restore the file from git"}
	}
	probe := &clearProbe{}
	if _, err := tree.Encrypt(nil, probe); err != nil {
		return &Error{Kind: ErrMalformed, Path: path, What: "holds a value of a kind that sops does not know", Next: "restore the file from git"}
	}
	if len(probe.clear) > 0 {
		return &Error{Kind: ErrNotEncrypted, Path: path, What: "stored in clear although the file is marked as encrypted: " + strings.Join(probe.clear, ", "), Next: "restore the file from git, and change it only with `sops edit`"}
	}
	if probe.encrypted == 0 {
		return &Error{Kind: ErrNotEncrypted, Path: path, What: "sops metadata is present but no value is encrypted", Next: "check the rule for this file in .sops.yaml, then encrypt it again"}
	}
	return nil
}

// clearProbe poses as a cipher, so that the library's own rules choose the values that must be ciphertext.
type clearProbe struct {
	clear     []string
	encrypted int
}

// Encrypt records the value and leaves it as it is.
func (p *clearProbe) Encrypt(value any, _ []byte, path string) (string, error) {
	text, ok := value.(string)
	if comment, isComment := value.(sops.Comment); isComment {
		text, ok = comment.Value, true
		path += "#comment"
	}
	switch {
	case ok && strings.TrimSpace(text) == "": // sops leaves empty values empty
	case ok && ciphertext.MatchString(text):
		p.encrypted++
	default:
		p.clear = append(p.clear, strings.ReplaceAll(strings.TrimSuffix(path, ":"), ":", "."))
	}
	return text, nil
}

// Decrypt is never called.
func (*clearProbe) Decrypt(string, []byte, string) (any, error) { return nil, errors.ErrUnsupported }
