package pve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// upload stores a file sent as multipart form data; readUpload has received it.
func upload(c *call) (any, error) {
	if c.temporary == "" {
		return nil, die("missing temporary file name")
	}
	t, err := c.transferTarget("can't upload to storage type '%s'", "storage '%s' does not support '%s' content")
	if err != nil {
		return nil, err
	}
	s, temporary := c.server, c.temporary
	c.temporary = "" // the task owns it now
	discard := func() { _ = os.Remove(temporary) }
	return c.fork(job{kind: "imgcopy", node: c.node, failed: discard, run: func(_ context.Context, w *worker) error {
		w.log("starting file import from: /var/tmp/pveupload-%s", filepath.Base(temporary))
		if t.hash != "" {
			if err := t.verify(w, temporary, ""); err != nil {
				return err
			}
		}
		info, err := os.Stat(temporary)
		if err != nil {
			return err
		}
		if !s.fits(t, info.Size()) {
			return die("import failed: cp: error writing '%s': No space left on device", t.path())
		}
		file := s.hostFile(t.node, t.storage.Name, t.content, t.name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		// An existing file is overwritten, as in Proxmox.
		if err := os.Rename(temporary, file); err != nil {
			return err
		}
		s.addFile(t, file, info.Size())
		w.log("target node: %s\ntarget file: %s\nfile size is: %d\nfinished file import successfully", t.node, t.path(), info.Size())
		return nil
	}}), nil
}

// readUpload reads an upload's form into params and its file into a temporary one.
func (c *call) readUpload(params map[string]value) error {
	reader, err := c.request.MultipartReader()
	if err != nil {
		return die("upload: %v", err)
	}
	for {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return die("upload: %v", err)
		}
		if part.FileName() == "" {
			// Proxmox looks for these fields only, and only in front of the file.
			if name := part.FormName(); c.temporary != "" || name != "content" && name != "checksum" && name != "checksum-algorithm" {
				return die("upload failed")
			}
			text, err := io.ReadAll(io.LimitReader(part, maxBody))
			if err != nil {
				return die("upload: %v", err)
			}
			params[part.FormName()] = value{text: strings.TrimSpace(string(text))}
			continue
		}
		if part.FormName() != "filename" || c.temporary != "" {
			return die("wrong field name '%s' for file upload, expected 'filename'", part.FormName())
		}
		params["filename"] = value{text: part.FileName()}
		if err := c.saveUpload(part); err != nil {
			return err
		}
	}
}

func (c *call) saveUpload(content io.Reader) error {
	f, err := os.CreateTemp(c.server.options.Dir, "upload-*")
	if err != nil {
		return err
	}
	c.temporary = f.Name()
	_, err = io.Copy(f, content)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, syscall.ENOSPC) {
		return die("write to temporary file failed: No space left on device")
	}
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return nil
}
