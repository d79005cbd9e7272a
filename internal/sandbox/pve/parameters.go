package pve

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxBody is the largest body of a call that is not an upload.
const maxBody = 512 << 10

// readParameters collects a call's parameters from its body and query. An upload's form is read by its handler.
func readParameters(r *http.Request, isUpload bool) (map[string]value, error) {
	params := map[string]value{}
	switch {
	case isUpload:
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		if len(body) > maxBody {
			return nil, &apiError{status: http.StatusNotImplemented, message: "for data too large"}
		}
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/json" {
			if err := decodeJSON(body, params); err != nil {
				return nil, err
			}
		} else {
			decodeForm(string(body), params)
		}
	case r.ContentLength > 0:
		return nil, &apiError{status: http.StatusNotImplemented, message: fmt.Sprintf("Unexpected content for method '%s'", r.Method)}
	}
	query := map[string]value{}
	decodeForm(r.URL.RawQuery, query)
	for name, v := range query {
		params[name] = v
	}
	// The web interface's way around caches.
	delete(params, "_dc")
	return params, nil
}

// decodeForm reads URL-encoded parameters as Proxmox does: leniently, and a repeated name makes an array.
func decodeForm(text string, params map[string]value) {
	for pair := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '&' || r == ';' }) {
		name, text, assigned := strings.Cut(pair, "=")
		// Perl's split drops what follows a second equals sign.
		text, _, _ = strings.Cut(text, "=")
		if !assigned || text == "" {
			continue // undefined, which is the same as absent
		}
		name = unescape(name)
		v := value{text: unescape(text)}
		if _, repeated := params[name]; repeated {
			v = value{reference: "ARRAY"}
		}
		params[name] = v
	}
}

// unescape replaces + and %XX; anything else that looks like an escape stays.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '+':
			b.WriteByte(' ')
		case text[i] == '%' && i+2 < len(text) && isHex(text[i+1]) && isHex(text[i+2]):
			decoded, err := hex.DecodeString(text[i+1 : i+3])
			if err == nil {
				b.Write(decoded)
			}
			i += 2
		default:
			b.WriteByte(text[i])
		}
	}
	if !utf8.ValidString(b.String()) {
		return strings.ToValidUTF8(b.String(), "\uFFFD")
	}
	return b.String()
}

func isHex(c byte) bool { return strings.IndexByte("0123456789abcdefABCDEF", c) >= 0 }

func decodeJSON(body []byte, params map[string]value) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		return &apiError{status: http.StatusBadRequest, message: "malformed JSON in the request"}
	}
	for name, item := range document {
		switch item := item.(type) {
		case nil:
		case string:
			params[name] = value{text: item}
		case json.Number:
			params[name] = value{text: item.String()}
		case bool:
			params[name] = value{text: fmt.Sprint(truth(item))}
		case []any:
			params[name] = value{reference: "ARRAY"}
		default:
			params[name] = value{reference: "HASH"}
		}
	}
	return nil
}
