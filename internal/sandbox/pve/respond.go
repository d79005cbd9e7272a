package pve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const serverName = "pve-api-daemon/3.0"

// answer is the body of every response.
type answer struct {
	Data    any               `json:"data"`
	Total   int               `json:"total,omitempty"`
	Message string            `json:"message,omitempty"`
	Errors  map[string]string `json:"errors,omitempty"`
}

func encode(a answer) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(a); err != nil {
		// Handlers return maps, lists and scalars only.
		return []byte(`{"data":null,"message":"encoding failed"}`)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func setHeaders(h http.Header, length int) {
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(length))
	h.Set("Cache-Control", "max-age=0")
	h.Set("Pragma", "no-cache")
	h.Set("Server", serverName)
}

func writeData(w http.ResponseWriter, data any, total int) {
	body := encode(answer{Data: data, Total: total})
	setHeaders(w.Header(), len(body))
	_, _ = w.Write(body) // a client that has gone away needs no answer
}

// writeError answers with a failure. Clients read it from the status line's reason phrase, which net/http cannot set, so the
// line is written by hand; as in Proxmox the connection ends with it.
func writeError(w http.ResponseWriter, r *http.Request, e *apiError) {
	var body []byte
	// A caller who is not logged in gets the status line only.
	if e.status != http.StatusUnauthorized {
		body = encode(answer{Message: e.message + "\n", Errors: e.fields})
	}
	reason, _, _ := strings.Cut(e.message, "\n")
	reason = strings.ReplaceAll(reason, "\r", " ")
	setHeaders(w.Header(), len(body))
	w.Header().Set("Connection", "close")
	if reason != http.StatusText(e.status) && writeByHand(w, r, e.status, reason, body) {
		return
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(body)
}

func writeByHand(w http.ResponseWriter, r *http.Request, status int, reason string, body []byte) bool {
	// Unread data would make the kernel reset the connection before the client has seen the answer.
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<30))
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	fmt.Fprintf(buffer, "HTTP/1.1 %d %s\r\n", status, reason)
	_ = w.Header().Write(buffer)
	_, _ = buffer.WriteString("\r\n")
	_, _ = buffer.Write(body)
	_ = buffer.Flush()
	return true
}

// drop closes the connection without an answer. Only an HTTP/1 connection can be dropped, and Serve makes no other.
func drop(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = conn.Close()
	}
}
