package sopsfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A made-up secret, put together so that no scanner mistakes the source for a leak.
var (
	testSecret = strings.Repeat("0f", 4) + "-1a2b-3c4d-5e6f-" + strings.Repeat("7d", 6)
	testToken  = "terraform@pve!cloudlab=" + testSecret
)

func TestReadSecrets(t *testing.T) {
	for name, plain := range map[string]string{
		"secrets.enc.json": `{"other": 1, "proxmox_api_token": "` + testToken + `"}`,
		"secrets.enc.yaml": "other: [1]\nproxmox_api_token: " + testToken + "\n",
		"secrets.enc.yml":  "proxmox_api_token: '" + testToken + "'\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t)
			p.write(name, plain)
			got, err := ReadSecrets(p.dir, p.opts())
			if err != nil {
				t.Fatal(err)
			}
			if got.ProxmoxAPIToken.Reveal() != testToken || got.Path != p.path(name) {
				t.Errorf("got %+v", got)
			}
			if id := got.ProxmoxAPIToken.ID(); id != "terraform@pve!cloudlab" {
				t.Errorf("ID() = %q", id)
			}
			encoded, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			for _, shown := range []string{fmt.Sprint(got), fmt.Sprintf("%+v", *got), fmt.Sprintf("%#v", *got), got.ProxmoxAPIToken.String(), string(encoded)} {
				if strings.Contains(shown, testSecret) {
					t.Errorf("shows the secret: %s", shown)
				}
			}
		})
	}
}

func TestReadSecretsErrors(t *testing.T) {
	stranger := newIdentity(t)
	for _, tc := range []struct {
		name  string
		setup func(p *project) Options
		kind  error
		words []string
	}{
		{"no file", func(p *project) Options { return p.opts() }, ErrMissing, []string{"secrets.enc.json", "secrets.enc.yaml", "proxmox_api_token", "mise run setup"}},
		{"two files", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`)
			p.write("secrets.enc.yaml", "proxmox_api_token: "+testToken)
			return p.opts()
		}, ErrAmbiguous, []string{"secrets.enc.json, secrets.enc.yaml", "delete"}},
		{"not encrypted", func(p *project) Options {
			p.file("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`, 0o600)
			return Options{} // told before any key is looked for
		}, ErrNotEncrypted, []string{"secrets.enc.json", "no sops metadata", "sops encrypt"}},
		{"not JSON", func(p *project) Options {
			p.file("secrets.enc.json", `proxmox_api_token = `+testToken, 0o600)
			return p.opts()
		}, ErrMalformed, []string{"not valid JSON"}},
		{"not YAML", func(p *project) Options {
			p.file("secrets.enc.yaml", "a: b\n\tproxmox_api_token: "+testToken, 0o600)
			return p.opts()
		}, ErrMalformed, []string{"not valid YAML"}},
		{"a YAML scalar", func(p *project) Options {
			p.file("secrets.enc.yaml", testToken, 0o600)
			return p.opts()
		}, ErrMalformed, []string{"not valid YAML"}},
		{"empty file", func(p *project) Options {
			p.file("secrets.enc.yaml", "\n", 0o600)
			return p.opts()
		}, ErrMalformed, []string{"empty"}},
		{"no identity", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`)
			return Options{ProjectDir: p.dir}
		}, ErrNoIdentity, []string{"SOPS_AGE_KEY"}},
		{"other recipient", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`)
			p.file("recipient.txt", p.identity.Recipient().String(), 0o600)
			return Options{AgeKey: stranger.String()}
		}, ErrIdentityMismatch, []string{"encrypted for age1", stranger.Recipient().String(), "sops updatekeys"}},
		{"wrong key text", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": "`+testToken+`"}`)
			return Options{AgeKey: "AGE-SECRET-KEY-1OOPS"}
		}, ErrBadIdentity, []string{"damaged"}},
		{"key missing in the file", func(p *project) Options {
			p.write("secrets.enc.json", `{"token": "`+testToken+`"}`)
			return p.opts()
		}, ErrNoKey, []string{"proxmox_api_token", "sops edit"}},
		{"token is a number", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": 12345678901}`)
			return p.opts()
		}, ErrMalformedToken, []string{"not a string"}},
		{"token without secret", func(p *project) Options {
			p.write("secrets.enc.json", `{"proxmox_api_token": "terraform@pve!cloudlab"}`)
			return p.opts()
		}, ErrMalformedToken, []string{"secrets.enc.json", "= between", "pveum"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t)
			opts := tc.setup(p)
			words := tc.words
			if errors.Is(tc.kind, ErrIdentityMismatch) {
				words = append(words, p.identity.Recipient().String())
			}
			got, err := ReadSecrets(p.dir, opts)
			if got != nil {
				t.Errorf("got %v with an error", got)
			}
			wantError(t, err, tc.kind, words, testSecret, testSecret[:8], p.identity.String(), stranger.String())
		})
	}
}

func TestTampered(t *testing.T) {
	swap := func(s, from, to string) string { return strings.Replace(s, from, to, 1) }
	for _, tc := range []struct {
		name   string
		tamper func(raw string) string
		kind   error
		words  []string
	}{
		{"a value in clear", func(raw string) string {
			return swap(raw, raw[strings.Index(raw, "token: ")+7:strings.Index(raw, "\n")], testToken)
		}, ErrNotEncrypted, []string{"proxmox_api_token"}},
		{"a value added in clear", func(raw string) string { return "added: " + testSecret + "\n" + raw }, ErrNotEncrypted, []string{"added"}},
		{"a comment added in clear", func(raw string) string { return "# " + testSecret + "\n" + raw }, ErrNotEncrypted, []string{"#comment"}},
		{"ciphertext changed", func(raw string) string {
			i := strings.Index(raw, "data:") + 6
			return raw[:i] + flip(raw[i]) + raw[i+1:]
		}, ErrTampered, []string{"restore"}},
		{"key renamed", func(raw string) string { return swap(raw, "proxmox_api_token", "proxmox_api_t0ken") }, ErrTampered, nil},
		{"key removed", func(raw string) string { return raw[strings.Index(raw, "\n")+1:] }, ErrTampered, nil},
		{"MAC changed", func(raw string) string {
			i := strings.Index(raw, "mac:") + strings.Index(raw[strings.Index(raw, "mac:"):], "data:") + 6
			return raw[:i] + flip(raw[i]) + raw[i+1:]
		}, ErrTampered, nil},
		{"MAC removed", func(raw string) string {
			i := strings.Index(raw, "    mac:")
			return raw[:i] + raw[i+strings.Index(raw[i:], "\n")+1:]
		}, ErrMalformed, []string{"no MAC"}},
		{"date changed", func(raw string) string { return swap(raw, "lastmodified: \"20", "lastmodified: \"19") }, ErrTampered, nil},
		{"data key damaged", func(raw string) string {
			i := strings.LastIndex(raw, "-----END AGE") - 30
			return raw[:i] + flip(raw[i]) + raw[i+1:]
		}, ErrTampered, []string{"data key"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProject(t)
			p.write("secrets.enc.yaml", "proxmox_api_token: "+testToken+"\nother: thing\n")
			raw := p.read("secrets.enc.yaml")
			bad := tc.tamper(raw)
			if bad == raw {
				t.Fatal("nothing was tampered with")
			}
			p.file("secrets.enc.yaml", bad, 0o600)
			_, err := ReadSecrets(p.dir, p.opts())
			wantError(t, err, tc.kind, tc.words, testSecret)
		})
	}
}

// flip gives another base64 digit.
func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func TestParseToken(t *testing.T) {
	for _, good := range []string{testToken, "root@pam!a=x", "user@domain@ldap!id=A-1"} {
		if _, err := ParseToken(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, word := range map[string]string{
		"":                                      "empty",
		" \n":                                   "empty",
		testToken + "\n":                        "white space around",
		"PVEAPIToken=" + testToken:              "HTTP header",
		"terraform@pve! cloudlab=" + testSecret: "contains white space",
		"terraform@pve=" + testSecret:           "the ! between",
		"terraform!cloudlab=" + testSecret:      "@REALM",
		"terraform@pve!" + testSecret:           "the = between",
		"terraform@pve!cloudlab=":               "empty or has",
		"terraform@pve!cloudlab=" + testSecret + "\"": "unexpected characters",
	} {
		_, err := ParseToken(bad)
		if err == nil {
			t.Errorf("%q is accepted", bad)
			continue
		}
		wantError(t, err, ErrMalformedToken, []string{word, "pveum"}, testSecret)
	}
}

func TestDecryptMissingAndUnsupported(t *testing.T) {
	p := newProject(t)
	_, err := Decrypt(p.path("gone.enc.yaml"), p.opts())
	wantError(t, err, ErrMissing, []string{"gone.enc.yaml"})
	_, err = Decrypt(p.file("x.enc.txt", "a", 0o600), p.opts())
	wantError(t, err, ErrUnsupported, []string{".yaml"})
	if err := os.Mkdir(p.path("dir.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Decrypt(p.path("dir.yaml"), p.opts())
	wantError(t, err, ErrUnsupported, []string{"directory"})
}
