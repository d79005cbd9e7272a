package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
)

// writePlain replaces a file as a whole, readable by its owner only. It tells whether the content is new.
func writePlain(path string, content []byte) (changed bool, err error) {
	present, err := os.ReadFile(path)
	if err == nil && bytes.Equal(present, content) {
		return false, os.Chmod(path, 0o600)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*.dec.yaml") // mode 0600, a name that git ignores
	if err != nil {
		return false, err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(tmp.Name()))
	}
	return true, nil
}
