package factory

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/siderolabs/talos/pkg/machinery/imager/imageropts"
	"go.yaml.in/yaml/v4"
)

// schematic is the document that POST /schematics takes. The order of the fields is the canonical one: the ID is the
// hash of the encoded document.
type schematic struct {
	Owner   string `yaml:"owner,omitempty"`
	Overlay struct {
		Image   string         `yaml:"image"`
		Name    string         `yaml:"name"`
		Options map[string]any `yaml:"options,omitempty"`
	} `yaml:"overlay,omitempty"`
	Customization struct {
		EmbeddedMachineConfiguration string   `yaml:"embeddedMachineConfiguration,omitempty"`
		ExtraKernelArgs              []string `yaml:"extraKernelArgs,omitempty"`
		Meta                         []struct {
			Key   uint8  `yaml:"key"`
			Value string `yaml:"value"`
		} `yaml:"meta,omitempty"`
		SystemExtensions struct {
			OfficialExtensions []string `yaml:"officialExtensions,omitempty"`
		} `yaml:"systemExtensions,omitempty"`
		Bootloader imageropts.BootloaderKind `yaml:"bootloader,omitempty"`
		SecureBoot struct {
			EnrollKeys                   string `yaml:"enrollKeys,omitempty"`
			IncludeWellKnownCertificates bool   `yaml:"includeWellKnownCertificates,omitempty"`
		} `yaml:"secureboot,omitempty"`
		DiskImage struct {
			SectorSize uint `yaml:"sectorSize,omitempty"`
		} `yaml:"diskImage,omitempty"`
	} `yaml:"customization"`
}

// parseSchematic decodes the first document strictly.
func parseSchematic(raw []byte) (*schematic, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	var s schematic
	if err := decoder.Decode(&s); err != nil {
		return nil, err
	}
	if s.Owner != "" {
		return nil, errors.New("owner field is only supported in Enterprise edition")
	}
	return &s, nil
}

// id returns the schematic's ID and its canonical form.
func (s *schematic) id() (id string, canonical []byte, err error) {
	canonical, err = yaml.Marshal(s)
	if err != nil {
		return "", nil, fmt.Errorf("encode schematic: %w", err)
	}
	return sum(canonical), canonical, nil
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// snapshot is the JSON form of a factory's memory: schematics in canonical YAML by ID.
type snapshot struct {
	Schematics map[string]string `json:"schematics"`
}

// Snapshot returns the registered schematics as JSON.
func (f *Factory) Snapshot() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := snapshot{Schematics: map[string]string{}}
	for id, s := range f.schematics {
		_, canonical, err := s.id()
		if err != nil {
			return nil, err
		}
		state.Schematics[id] = string(canonical)
	}
	return json.Marshal(state)
}

// Restore replaces the registered schematics by those of a snapshot. A snapshot that was changed is refused whole.
func (f *Factory) Restore(raw []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	var state snapshot
	if err := decoder.Decode(&state); err != nil {
		return fmt.Errorf("image factory snapshot: %w", err)
	}
	schematics := map[string]*schematic{}
	for want, text := range state.Schematics {
		s, err := parseSchematic([]byte(text))
		if err != nil {
			return fmt.Errorf("image factory snapshot: schematic %s: %w", want, err)
		}
		id, _, err := s.id()
		if err != nil {
			return err
		}
		if id != want {
			return fmt.Errorf("image factory snapshot: schematic %s has the ID %s; delete the sandbox's state", want, id)
		}
		schematics[id] = s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.schematics = schematics
	return nil
}
