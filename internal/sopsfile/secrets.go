package sopsfile

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// TokenKey is the key of the Proxmox API token in the secrets file.
const TokenKey = "proxmox_api_token"

// Secrets is the content of the secrets file.
type Secrets struct {
	// Path is the file they were read from.
	Path string
	// ProxmoxAPIToken authenticates the program to Proxmox VE.
	ProxmoxAPIToken Token
}

// Token is a Proxmox API token, USER@REALM!TOKENID=SECRET. All fmt verbs and encoders show it without the secret.
type Token struct{ value string }

// tokenForm is what Proxmox accepts as the value of PVEAPIToken.
var tokenForm = regexp.MustCompile(`^\S+@\S+!\S+=[A-Za-z0-9-]+$`)

// ParseToken checks the form of a token. Its error does not quote the token.
func ParseToken(s string) (Token, error) {
	if tokenForm.MatchString(s) && !strings.HasPrefix(s, "PVEAPIToken") {
		return Token{s}, nil
	}
	return Token{}, &Error{
		Kind: ErrMalformedToken, What: TokenKey + " is malformed: " + tokenDefect(s),
		Next: "it must be USER@REALM!TOKENID=SECRET as `pveum user token add` prints it, e.g. terraform@pve!cloudlab=<uuid>",
	}
}

// tokenDefect says what is wrong without quoting any part of the token.
func tokenDefect(s string) string {
	user, rest, hasBang := strings.Cut(s, "!")
	switch {
	case strings.TrimSpace(s) == "":
		return "it is empty"
	case strings.HasPrefix(s, "PVEAPIToken"):
		return "it starts with PVEAPIToken, which belongs to the HTTP header only"
	case strings.TrimSpace(s) != s:
		return "it has white space around it"
	case strings.ContainsAny(s, " \t\r\n"):
		return "it contains white space"
	case !hasBang:
		return "the ! between user and token ID is missing"
	case !strings.Contains(user, "@"):
		return "the user has no @REALM"
	case !strings.Contains(rest, "="):
		return "the = between token ID and secret is missing"
	}
	return "the user, the token ID or the secret is empty or has unexpected characters"
}

// Reveal returns the whole token, secret included.
func (t Token) Reveal() string { return t.value }

// ID is the part that is no secret, USER@REALM!TOKENID.
func (t Token) ID() string {
	if i := strings.LastIndex(t.value, "="); i >= 0 {
		return t.value[:i]
	}
	return ""
}

// String is the token without its secret.
func (t Token) String() string { return t.ID() + "=<redacted>" }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// MarshalText is String, so that no encoder writes the secret.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// SecretsFileNames are the names that [ReadSecrets] knows.
func SecretsFileNames() []string {
	return []string{"secrets.enc.json", "secrets.enc.yaml", "secrets.enc.yml"}
}

// ReadSecrets decrypts the one secrets file in dir.
// Errors: [ErrMissing], [ErrAmbiguous], [ErrNoKey], [ErrMalformedToken] and those of [Decrypt].
func ReadSecrets(dir string, opts Options) (*Secrets, error) {
	path, err := secretsFile(dir)
	if err != nil {
		return nil, err
	}
	plain, err := Decrypt(path, opts)
	if err != nil {
		return nil, err
	}
	// JSON is YAML, so one decoder does for both.
	var values map[string]any
	if err := yaml.Unmarshal(plain, &values); err != nil {
		return nil, &Error{Kind: ErrMalformed, Path: path, What: parseProblem("YAML after decryption", err), Next: "check it with `sops edit " + path + "`"}
	}
	value, ok := values[TokenKey]
	if !ok {
		return nil, &Error{Kind: ErrNoKey, Path: path, What: "key " + TokenKey + " is missing", Next: "add it with `sops edit " + path + "`"}
	}
	text, ok := value.(string)
	if !ok {
		return nil, &Error{Kind: ErrMalformedToken, Path: path, What: TokenKey + " is not a string", Next: "quote it with `sops edit " + path + "`"}
	}
	token, err := ParseToken(text)
	if err != nil {
		return nil, &Error{Kind: ErrMalformedToken, Path: path, What: "bad secret", Err: err}
	}
	return &Secrets{Path: path, ProxmoxAPIToken: token}, nil
}

func secretsFile(dir string) (string, error) {
	var found []string
	for _, name := range SecretsFileNames() {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 1:
		return filepath.Join(dir, found[0]), nil
	case 0:
		return "", &Error{
			Kind: ErrMissing, Path: dir,
			What: "no secrets file (" + strings.Join(SecretsFileNames(), ", ") + ")",
			Next: "run `mise run setup`, or create secrets.enc.json with the key " + TokenKey + " by `sops edit secrets.enc.json`",
		}
	}
	return "", &Error{Kind: ErrAmbiguous, Path: dir, What: "more than one secrets file: " + strings.Join(found, ", "), Next: "delete all but one"}
}
