package sopsfile

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"regexp"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Finding is a secret that stands in clear.
type Finding struct {
	// Name is the scanned file or stream.
	Name string
	// Line counts from 1; 0 concerns the whole file.
	Line int
	// Kind names the kind of secret, one of the Kind… constants.
	Kind string
	// Hint says where in the file or why, without the secret.
	Hint string
}

// String is "name:line: kind (hint)", without the secret.
func (f Finding) String() string {
	s := f.Name
	if f.Line > 0 {
		s += fmt.Sprintf(":%d", f.Line)
	}
	s += ": " + f.Kind
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// The kinds of findings.
const (
	KindAgeKey         = "age private key"
	KindPrivateKey     = "private key"
	KindProxmoxToken   = "Proxmox API token"
	KindProxmoxTicket  = "Proxmox ticket"
	KindJWT            = "JSON web token"
	KindMachineSecret  = "Talos machine secret"
	KindKubeSecret     = "Kubernetes Secret in clear"
	KindPulumiSecret   = "Pulumi secret in clear"
	KindUnencrypted    = "not encrypted although its name says so"
	encodedSuffix      = " (base64)"
	maxBase64Recursion = 3
)

// pattern is a kind of secret that is recognised by its text. Most text lacks the literal, which is found much faster.
type pattern struct {
	kind    string
	literal string // lower-case
	re      *regexp.Regexp
}

// patterns work on plain text, YAML, JSON and JSON in JSON strings: separators allow for escaped quotes.
func patterns() []pattern {
	const sep = `\\*["']?\s*[:=]\s*\\*["']?`
	return []pattern{
		{KindAgeKey, "age-secret-key-", agePrivate},
		{KindPrivateKey, "private key-----", pemPrivate},
		{KindProxmoxToken, "!", proxmoxToken},
		{KindProxmoxTicket, "pve:", regexp.MustCompile(`PVE:[^\s:"']+@[a-z0-9]+:[0-9A-F]{8}::[A-Za-z0-9+/=]{40,}`)},
		{KindJWT, ".eyj", regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}`)},
		{KindMachineSecret, "encryptionsecret", regexp.MustCompile(`(?i)(?:secretbox|aescbc)EncryptionSecret` + sep + `[A-Za-z0-9+/]{40,}={0,2}`)},
		{KindMachineSecret, "token", regexp.MustCompile(`[tT]oken` + sep + `[a-z0-9]{6}\.[a-z0-9]{16}\b`)},
		{KindMachineSecret, "secret", regexp.MustCompile(`\bsecret` + sep + `[A-Za-z0-9+/]{43}=`)},
	}
}

var (
	agePrivate = regexp.MustCompile(`AGE-SECRET-KEY-(?:PQ-)?1[02-9AC-HJ-NP-Z]{50,}`)
	pemPrivate = regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----`)
	// The user before the @ is not matched, so that the search can skip from @ to @.
	proxmoxToken = regexp.MustCompile(`@[A-Za-z0-9_.-]+![A-Za-z0-9_.-]+=[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b`)

	// .sops.yaml itself is no encrypted file.
	encryptedName = regexp.MustCompile(`.\.(?:enc|sops)\.(?:json|ya?ml)$`)

	// What Pulumi marks secrets with in state and in the engine's protocol.
	pulumiPlain = regexp.MustCompile(`4dabf18193072939515e22adb298388d\\*"\s*:\s*\\*"1b47061264138c4ac30d75fd1eb44270\\*"[^{}]{0,200}?\\*"(?:plaintext|value)\\*"\s*:`)
)

// Scan finds secrets that stand in clear in content: age and PEM private keys (also base64-encoded, as in kubeconfig,
// talosconfig and machine secrets), Proxmox tokens and tickets, JSON web tokens, Talos machine secrets, Kubernetes Secret
// manifests, plain secrets in Pulumi state, and files that should be encrypted by name (*.enc.yaml, *.sops.yaml …) but
// are not. Ciphertext of sops and Pulumi, certificates and public keys are not reported.
//
// It works on any text, also on logs and state. name chooses the checks that depend on the kind of file.
// A token whose secret is one repeated digit, as in documentation, is not reported.
func Scan(name string, content []byte) []Finding {
	s := &scanner{name: name, content: content, seen: map[Finding]bool{}}
	if encryptedName.MatchString(path.Base(name)) {
		if err := CheckEncrypted(name, content); err != nil {
			s.report(-1, KindUnencrypted, problem(err))
		}
	}
	lower := bytes.ToLower(content)
	for _, p := range patterns() {
		if !bytes.Contains(lower, []byte(p.literal)) {
			continue
		}
		for _, at := range p.re.FindAllIndex(content, -1) {
			if p.kind != KindProxmoxToken || !placeholder(content[at[0]:at[1]]) {
				s.report(at[0], p.kind, "")
			}
		}
	}
	for _, at := range pulumiPlain.FindAllIndex(content, -1) {
		s.report(at[0], KindPulumiSecret, "")
	}
	for start, run := range base64Runs(content) {
		kind := encodedSecret(run, maxBase64Recursion)
		if glued := bytes.Index(run, []byte(encodedPEM)); kind == "" && glued > 0 {
			kind = encodedSecret(run[glued:], 1)
		}
		if kind != "" {
			s.report(start, kind+encodedSuffix, "")
		}
	}
	if kindSecret.Match(content) {
		s.manifests()
	}
	sort.SliceStable(s.findings, func(i, j int) bool { return s.findings[i].Line < s.findings[j].Line })
	return s.findings
}

type scanner struct {
	name     string
	content  []byte
	seen     map[Finding]bool
	findings []Finding
}

// report adds a finding at a byte offset (negative: the whole file), once per line and kind.
func (s *scanner) report(offset int, kind, hint string) {
	line := 0
	if offset >= 0 {
		line = 1 + bytes.Count(s.content[:offset], []byte("\n"))
	}
	s.add(Finding{Name: s.name, Line: line, Kind: kind, Hint: hint})
}

func (s *scanner) add(f Finding) {
	if !s.seen[f] {
		s.seen[f] = true
		s.findings = append(s.findings, f)
	}
}

func problem(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.What
	}
	return err.Error()
}

// placeholder recognises a token of documentation by its secret's single repeated digit.
func placeholder(token []byte) bool {
	secret := token[bytes.LastIndexByte(token, '=')+1:]
	digits := map[byte]bool{}
	for _, c := range secret {
		if c != '-' {
			digits[c] = true
		}
	}
	return len(digits) == 1
}

// encodedPEM is "-----BEGIN " in base64, to find PEM that other text runs into.
const encodedPEM = "LS0tLS1CRUdJTi"

// base64Runs yields every run of base64 digits that is long enough for a key, with its offset.
func base64Runs(text []byte) iter.Seq2[int, []byte] {
	const shortest = 40
	return func(yield func(int, []byte) bool) {
		start := 0
		for i := 0; i <= len(text); i++ {
			if i < len(text) && isBase64(text[i]) {
				continue
			}
			if i-start >= shortest && !yield(start, text[start:i]) {
				return
			}
			start = i + 1
		}
	}
}

func isBase64(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/'
}

// encodedSecret decodes base64, also nested, and names the secret in it.
func encodedSecret(run []byte, depth int) string {
	if depth == 0 {
		return ""
	}
	// A run glued to other text is cut to whole groups; the first bytes tell enough.
	if len(run)%4 == 1 {
		run = run[:len(run)-1]
	}
	plain := make([]byte, base64.RawStdEncoding.DecodedLen(len(run)))
	n, err := base64.RawStdEncoding.Decode(plain, run)
	if err != nil {
		return ""
	}
	plain = plain[:n]
	switch {
	case bytes.Contains(plain, []byte("PRIVATE KEY-----")) && pemPrivate.Match(plain):
		return KindPrivateKey
	case bytes.Contains(plain, []byte("AGE-SECRET-KEY-")) && agePrivate.Match(plain):
		return KindAgeKey
	case bytes.IndexByte(plain, '!') >= 0 && proxmoxToken.Match(plain):
		return KindProxmoxToken
	}
	for _, inner := range base64Runs(plain) {
		if kind := encodedSecret(inner, depth-1); kind != "" {
			return kind
		}
	}
	return ""
}

// manifests reports Kubernetes Secrets whose values are not sops ciphertext. What is not YAML holds no manifest.
func (s *scanner) manifests() {
	decoder := yaml.NewDecoder(bytes.NewReader(s.content))
	for {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			if !errors.Is(err, io.EOF) {
				s.brokenManifest()
			}
			return
		}
		s.manifest(&doc)
	}
}

// kindSecret tells whether it is worth parsing.
var kindSecret = regexp.MustCompile(`kind["']?\s*:\s*["']?Secret\b`)

// secretKind finds Secret manifests in text that is not YAML as a whole, such as templates.
var secretKind = regexp.MustCompile(`(?m)^kind:\s*["']?Secret["']?\s*$`)

var clearData = regexp.MustCompile(`(?m)^(?:data|stringData):\s*\n(?:\s*#.*\n)*\s+[^\s:]+:\s*[^\s{]`)

func (s *scanner) brokenManifest() {
	if at := secretKind.FindIndex(s.content); at != nil && clearData.Match(s.content) && !bytes.Contains(s.content, []byte("ENC[AES256_GCM")) {
		s.report(at[0], KindKubeSecret, "in a file that is not valid YAML")
	}
}

// manifest looks for Secrets in a node, also in lists and templates.
func (s *scanner) manifest(node *yaml.Node) {
	if node.Kind == yaml.MappingNode && field(node, "kind").Value == "Secret" && field(node, "apiVersion").Value == "v1" {
		for _, name := range []string{"data", "stringData"} {
			values := field(node, name)
			for i := 0; i+1 < len(values.Content); i += 2 {
				value := values.Content[i+1]
				if value.Value != "" && !ciphertext.MatchString(value.Value) {
					s.add(Finding{Name: s.name, Line: value.Line, Kind: KindKubeSecret, Hint: name + "." + values.Content[i].Value})
				}
			}
		}
		return
	}
	for _, child := range node.Content {
		s.manifest(child)
	}
}

// field returns a mapping's value, or an empty node.
func field(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if strings.EqualFold(mapping.Content[i].Value, key) {
			return mapping.Content[i+1]
		}
	}
	return &yaml.Node{}
}
