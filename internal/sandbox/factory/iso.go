package factory

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/kdomanski/iso9660"
)

// markerName is the file in an image that says what it boots.
const markerName = "cloudlab.json"

// maxMarker bounds the marker, in bytes.
const maxMarker = 1 << 20

// ErrNotBootable says that a medium holds no image of this factory.
var ErrNotBootable = errors.New("no Talos boot image")

// Where the primary volume descriptor is, and in it what would differ between two builds.
const (
	descriptorOffset = 16 * 2048
	identifierOffset = descriptorOffset + 1
	systemOffset     = descriptorOffset + 8
	systemLength     = 32
	datesOffset      = descriptorOffset + 813
)

// writeISO makes the image of boot; equal boots have equal bytes.
func writeISO(boot Boot) (iso []byte, err error) {
	marker, err := json.MarshalIndent(boot, "", "  ")
	if err != nil {
		return nil, err
	}
	writer, err := iso9660.NewWriter()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, writer.Cleanup()) }()
	if err := writer.AddFile(bytes.NewReader(append(marker, '\n')), markerName); err != nil {
		return nil, err
	}
	label := "TALOS_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_", "+", "_").Replace(boot.Version))
	var out bytes.Buffer
	if err := writer.WriteTo(&out, label[:min(len(label), 32)]); err != nil {
		return nil, err
	}
	iso = out.Bytes()
	copy(iso[systemOffset:systemOffset+systemLength], fmt.Sprintf("%-*s", systemLength, "LINUX"))
	const date = "2026010100000000\x00" // 17 bytes: digits and the offset from UTC
	copy(iso[datesOffset:], date+date+"0000000000000000\x00"+date)
	return iso, nil
}

// ReadISO says what an image boots. It fails with [ErrNotBootable] if it is not an image of this factory.
func ReadISO(r io.ReaderAt) (Boot, error) {
	header := make([]byte, 5)
	if _, err := r.ReadAt(header, identifierOffset); err != nil || string(header) != "CD001" {
		return Boot{}, fmt.Errorf("%w: not an ISO 9660 image", ErrNotBootable)
	}
	image, err := iso9660.OpenImage(r)
	if err != nil {
		return Boot{}, fmt.Errorf("%w: %w", ErrNotBootable, err)
	}
	root, err := image.RootDir()
	if err != nil {
		return Boot{}, fmt.Errorf("%w: %w", ErrNotBootable, err)
	}
	files, err := root.GetChildren()
	if err != nil {
		return Boot{}, fmt.Errorf("%w: %w", ErrNotBootable, err)
	}
	for _, file := range files {
		if file.Name() == markerName && !file.IsDir() {
			return readMarker(io.LimitReader(file.Reader(), maxMarker))
		}
	}
	return Boot{}, fmt.Errorf("%w: the medium has no %s, so the sandbox cannot tell what it boots", ErrNotBootable, markerName)
}

// ReadISOFile is [ReadISO] for a file.
func ReadISOFile(path string) (Boot, error) {
	file, err := os.Open(path)
	if err != nil {
		return Boot{}, fmt.Errorf("boot medium: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	boot, err := ReadISO(file)
	if err != nil {
		return Boot{}, fmt.Errorf("boot medium %s: %w", path, err)
	}
	return boot, nil
}

func readMarker(r io.Reader) (Boot, error) {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	var boot Boot
	if err := decoder.Decode(&boot); err != nil {
		return Boot{}, fmt.Errorf("%w: damaged %s: %w", ErrNotBootable, markerName, err)
	}
	if raw, err := hex.DecodeString(boot.Schematic); err != nil || len(raw) != 32 {
		return Boot{}, fmt.Errorf("%w: %s has no schematic ID", ErrNotBootable, markerName)
	}
	version, ok := strings.CutPrefix(boot.Version, "v")
	if _, err := semver.Parse(version); err != nil || !ok {
		return Boot{}, fmt.Errorf("%w: %s has no Talos version", ErrNotBootable, markerName)
	}
	return boot, nil
}
