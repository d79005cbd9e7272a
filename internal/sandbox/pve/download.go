package pve

import (
	"context"
	"crypto/md5"  //nolint:gosec // Proxmox offers it
	"crypto/sha1" //nolint:gosec // Proxmox offers it
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The extensions a downloaded or uploaded file must have.
var (
	isoFilePattern      = regexp.MustCompile(`[^/]+\.(?i:iso|img)$`)
	templateFilePattern = regexp.MustCompile(`[^/]+\.(?i:tar\.(?:gz|xz|zst|bz2))$`)
	importFilePattern   = regexp.MustCompile(`[a-zA-Z0-9\-.+=_]+\.(?:ova|qcow2|raw|vmdk)$`)
	unsafeCharacter     = regexp.MustCompile(`[^a-zA-Z0-9_.-]`)
	dispositionPattern  = regexp.MustCompile(`filename="([^"]*)"|filename=([^;]*)`)
	urlFilePattern      = regexp.MustCompile(`^[^?]+/([^?/]*)(?:\?.*)?$`)
)

func queryURLMetadata(c *call) (any, error) {
	var result map[string]any
	err := c.unlocked(func() error {
		response, err := c.server.get(c.ctx, http.MethodHead, c.params["url"], c.params["verify-certificates"] != "0")
		if err != nil {
			return die("invalid server response: '500 Can't connect to %s'", rootCause(err))
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return die("invalid server response: '%s'", response.Status)
		}
		result = metadata(response, c.params["url"])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

func metadata(response *http.Response, url string) map[string]any {
	result := map[string]any{}
	if match := dispositionPattern.FindStringSubmatch(response.Header.Get("Content-Disposition")); match != nil {
		result["filename"] = match[1] + match[2]
	} else if match := urlFilePattern.FindStringSubmatch(url); match != nil && match[1] != "" {
		result["filename"] = match[1]
	}
	if size, err := strconv.ParseInt(response.Header.Get("Content-Length"), 10, 64); err == nil && size > 0 {
		result["size"] = size
	}
	if kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";"); kind != "" {
		result["mimetype"] = kind
	}
	return result
}

// get asks the simulated network for a URL.
func (s *Server) get(ctx context.Context, method, url string, verify bool) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "Proxmox VE")
	client := *s.options.Fetch
	if transport, ok := client.Transport.(*http.Transport); ok && !verify {
		transport = transport.Clone()
		if transport.TLSClientConfig == nil {
			transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		transport.TLSClientConfig.InsecureSkipVerify = true // the caller asked for it
		client.Transport = transport
		defer transport.CloseIdleConnections()
	}
	return client.Do(request)
}

// rootCause strips the URL that net/http puts in front.
func rootCause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// target is the file that a download or an upload makes.
type target struct {
	storage  Storage
	node     string
	content  string
	name     string
	checksum string
	hash     string
}

// transferTarget checks the storage, content type and file name of a download or an upload.
func (c *call) transferTarget(notFiles, notConfigured string) (target, error) {
	storage, err := c.server.storage(c.params["storage"])
	if err != nil {
		return target{}, err
	}
	if !storage.isDir() {
		return target{}, die("%s", fmt.Sprintf(notFiles, storage.Type))
	}
	t := target{
		storage: storage, node: c.node, content: c.params["content"], name: c.params["filename"],
		checksum: c.params["checksum"], hash: c.params["checksum-algorithm"],
	}
	if !storage.allows(t.content) {
		return target{}, die("%s", fmt.Sprintf(notConfigured, storage.Name, t.content))
	}
	t.name = t.name[strings.LastIndexAny(t.name, `/\`)+1:]
	t.name = unsafeCharacter.ReplaceAllString(t.name, "_")
	wrong := "wrong file extension"
	pattern := isoFilePattern
	switch t.content {
	case "vztmpl":
		pattern = templateFilePattern
	case "import":
		pattern, wrong = importFilePattern, "invalid filename or wrong extension"
	}
	if !pattern.MatchString(t.name) {
		return target{}, paramError("filename", "%s", wrong)
	}
	return t, nil
}

func (t target) id() string { return t.storage.Name + ":" + t.content + "/" + t.name }

// path is the file as the node sees it.
func (t target) path() string { return t.storage.path() + "/" + contentDir(t.content) + "/" + t.name }

func downloadURL(c *call) (any, error) {
	t, err := c.transferTarget("can't upload to storage type '%s', not a file based storage!",
		"storage '%s' is not configured for content-type '%s'")
	if err != nil {
		return nil, err
	}
	s, url, verify, compression := c.server, c.params["url"], c.params["verify-certificates"] != "0", c.params["compression"]
	return c.fork(job{kind: "download", id: t.name, node: c.node, run: func(ctx context.Context, w *worker) error {
		if compression != "" {
			return die("decompression is not simulated: %s", compression)
		}
		return s.download(ctx, w, t, url, verify)
	}}), nil
}

func (s *Server) download(ctx context.Context, w *worker, t target, url string, verify bool) error {
	w.log("downloading %s to %s", url, t.path())
	s.mu.Lock()
	existing := s.state.Volumes[volumeKey(t.node, t.id())]
	s.mu.Unlock()
	if existing != nil {
		return t.checkExisting(w, existing)
	}
	file := s.hostFile(t.node, t.storage.Name, t.content, t.name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(file), t.name+".tmp_dwnl.*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(partial.Name()) }()
	size, err := s.fetch(ctx, w, url, verify, partial)
	if closeErr := partial.Close(); err == nil {
		err = closeErr
	}
	if err == nil && !s.fits(t, size) {
		err = syscall.ENOSPC
	}
	if errors.Is(err, syscall.ENOSPC) {
		return die("download failed: Cannot write to '%s.tmp_dwnl.%d' (No space left on device).", t.path(), w.task.PID)
	}
	if err != nil {
		return err
	}
	if t.hash != "" {
		if err := t.verify(w, partial.Name(), ""); err != nil {
			return err
		}
	}
	if err := os.Rename(partial.Name(), file); err != nil {
		return die("unable to rename temporary file: %v", err)
	}
	s.addFile(t, file, size)
	w.log("download of '%s' to '%s' finished", url, t.path())
	return nil
}

func (t target) checkExisting(w *worker, existing *volume) error {
	if t.hash == "" {
		return die("refusing to override existing file '%s'", t.path())
	}
	w.log("calculating checksum of existing file...")
	if err := t.verify(w, existing.File, ", aborting"); err != nil {
		return err
	}
	w.log("OK, got correct file already, no need to download")
	return nil
}

// fetch is the simulated wget.
func (s *Server) fetch(ctx context.Context, w *worker, url string, verify bool, to io.Writer) (int64, error) {
	response, err := s.get(ctx, http.MethodGet, url, verify)
	if err != nil {
		return 0, die("download failed: %s", rootCause(err))
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return 0, die("download failed: %s ERROR %s.", s.options.Now().UTC().Format(time.DateTime), strings.Replace(response.Status, " ", ": ", 1))
	}
	size, err := io.Copy(to, response.Body)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return 0, err
		}
		return 0, die("download failed: %s", rootCause(err))
	}
	w.log("saved [%d]", size)
	return size, nil
}

// verify compares a file with the checksum that was asked for.
func (t target) verify(w *worker, file, suffix string) error {
	got, err := fileHash(t.hash, file)
	if err != nil {
		return err
	}
	if !strings.EqualFold(got, t.checksum) {
		return die("checksum mismatch: got '%s' != expect '%s'%s", got, t.checksum, suffix)
	}
	w.log("calculating checksum...OK, checksum verified")
	return nil
}

func fileHash(algorithm, file string) (string, error) {
	var sum hash.Hash
	switch algorithm {
	case "md5":
		sum = md5.New() //nolint:gosec // see above
	case "sha1":
		sum = sha1.New() //nolint:gosec // see above
	case "sha224":
		sum = sha256.New224()
	case "sha384":
		sum = sha512.New384()
	case "sha512":
		sum = sha512.New()
	default:
		sum = sha256.New()
	}
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// fits tells whether a storage has room for so many bytes more.
func (s *Server) fits(t target, size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used(t.node, t.storage)+size <= t.storage.Bytes
}

func (s *Server) addFile(t target, file string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &volume{
		Node: t.node, Storage: t.storage.Name, Name: t.content + "/" + t.name, Content: t.content, Format: "raw", Size: size,
		Created: s.options.Now().Unix(), File: file,
	}
	s.state.Volumes[volumeKey(t.node, v.id())] = v
}
