package machine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	blockpb "github.com/siderolabs/talos/pkg/machinery/api/resource/definitions/block"
	"github.com/siderolabs/talos/pkg/machinery/cel"
	"github.com/siderolabs/talos/pkg/machinery/cel/celenv"
	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/proto"
	"github.com/siderolabs/talos/pkg/machinery/resources/block"
)

// platform is what volume keys are bound to: the machine's TPM, its Secure Boot state and its identity.
type platform struct {
	tpm        string
	secureBoot bool
	setupMode  bool
	uuid       string
	// state is the UUID of the unlocked STATE volume.
	state string
}

// pcr7 stands for the measurement of the Secure Boot state and keys.
func (p platform) pcr7() string {
	switch {
	case p.secureBoot:
		return "enforced with the factory's keys"
	case p.setupMode:
		return "setup mode"
	default:
		return "off"
	}
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// newKey enrols a key slot.
func (p platform) newKey(k config.EncryptionKey) (volumeKey, error) {
	key := volumeKey{Slot: k.Slot()}
	switch {
	case k.TPM() != nil:
		key.Kind = "tpm"
		if k.TPM().CheckSecurebootOnEnroll() && !p.secureBoot {
			return key, errors.New("failed to enroll the TPM2 key, as SecureBoot is disabled (and checkSecurebootOnEnroll is enabled)")
		}
		if p.tpm == "" {
			return key, errors.New("TPM device is not available")
		}
		key.TPM = p.tpm
		if slices.Contains(k.TPM().PCRs(), constants.SecureBootStatePCR) {
			key.PCR7 = p.pcr7()
		}
	case k.Static() != nil:
		key.Kind, key.Secret = "static", digest(string(k.Static().Key()))
	case k.NodeID() != nil:
		key.Kind, key.Secret = "nodeID", digest(p.uuid)
	case k.KMS() != nil:
		return key, errors.New("KMS keys are not simulated")
	default:
		return key, errors.New("the key has no source")
	}
	if k.LockToSTATE() {
		if p.state == "" {
			return key, errors.New("failed to get the STATE salt: STATE is not ready")
		}
		key.State = p.state
	}
	return key, nil
}

// unlock opens one key slot.
func (p platform) unlock(k volumeKey) error {
	switch k.Kind {
	case "tpm":
		if p.tpm == "" {
			return errors.New("TPM device is not available")
		}
		if k.TPM != p.tpm {
			return fmt.Errorf("srk name does not match, expected %.16s, got %.16s", digest(k.TPM), digest(p.tpm))
		}
		if k.PCR7 != "" && k.PCR7 != p.pcr7() {
			return fmt.Errorf("failed to validate PCR policy digest for PCRs [7]: sealing policy digest does not match, "+
				"expected %.16s, got %.16s (Secure Boot was %s and is %s)", digest(k.PCR7), digest(p.pcr7()), k.PCR7, p.pcr7())
		}
	case "nodeID":
		if k.Secret != digest(p.uuid) {
			return errors.New("the machine's UUID has changed")
		}
	}
	if k.State != "" && k.State != p.state {
		return errors.New("the volume is locked to another STATE volume")
	}
	return nil
}

// open unlocks an existing volume.
func (p platform) open(v *volumeState) error {
	if v.Provider == "" {
		return nil
	}
	var failures []string
	for _, k := range v.Keys {
		err := p.unlock(k)
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Sprintf("key slot %d (%s): %v", k.Slot, k.Kind, err))
	}
	return fmt.Errorf("error opening encrypted volume: no handlers available to get encryption keys from: %s", strings.Join(failures, "; "))
}

// format makes a new volume with the configured encryption.
func (p platform) format(e config.EncryptionConfig) (*volumeState, error) {
	v := &volumeState{UUID: uuid.NewString()}
	if !encrypted(e) {
		return v, nil
	}
	v.Provider = e.Provider().String()
	for _, k := range e.Keys() {
		key, err := p.newKey(k)
		if err != nil {
			return nil, fmt.Errorf("error formatting and encrypting volume: %w", err)
		}
		v.Keys = append(v.Keys, key)
	}
	return v, nil
}

func encrypted(e config.EncryptionConfig) bool {
	return e != nil && len(e.Keys()) > 0
}

// volumeDisk is a disk that volumes may be placed on.
type volumeDisk struct {
	spec   *block.Disk
	volume string
	system bool
}

func (d volumeDisk) matches(e cel.Expression) (bool, error) {
	spec := &blockpb.DiskSpec{}
	if err := proto.ResourceSpecToProto(d.spec, spec); err != nil {
		return false, err
	}
	ok, err := e.EvalBool(celenv.DiskLocator(), map[string]any{"disk": spec, "system_disk": d.system})
	if err != nil {
		return false, fmt.Errorf("error evaluating disk locator: %w", err)
	}
	return ok, nil
}

// place picks a disk for a new volume. full are the disks without free space.
func place(disks []volumeDisk, p config.VolumeProvisioningConfig, minimum uint64, full map[string]bool) (*volumeDisk, error) {
	if size, ok := p.MinSize().Get(); ok {
		minimum = size
	}
	selector, selected := p.DiskSelector().Get()
	matched := 0
	for i, d := range disks {
		if d.spec.TypedSpec().CDROM || d.spec.TypedSpec().Readonly {
			continue
		}
		ok := d.system
		if selected {
			var err error
			if ok, err = d.matches(selector); err != nil {
				return nil, err
			}
		}
		if !ok {
			continue
		}
		matched++
		if !full[d.volume] && d.spec.TypedSpec().Size >= minimum {
			return &disks[i], nil
		}
	}
	if matched == 0 {
		return nil, errors.New("no disks matched selector for volume")
	}
	return nil, fmt.Errorf("no disks matched for volume (%d matched selector): %d have not enough space, 0 have wrong format, 0 have other issues",
		matched, matched)
}

// volumeRequest is a volume that the configuration asks for.
type volumeRequest struct {
	id           string
	provisioning config.VolumeProvisioningConfig
	encryption   config.EncryptionConfig
	minimum      uint64
	// greedy volumes take the rest of their disk.
	greedy bool
}

// requests lists the volumes in the order in which Talos provisions them, after STATE.
func requests(cfg config.Config) []volumeRequest {
	ephemeral, _ := cfg.Volumes().ByName(constants.EphemeralPartitionLabel)
	_, limited := ephemeral.Provisioning().MaxSize().Get()
	grow := ephemeral.Provisioning().Grow().ValueOr(true)
	list := []volumeRequest{{
		id: constants.EphemeralPartitionLabel, provisioning: ephemeral.Provisioning(),
		encryption: encryptionOf(cfg, constants.EphemeralPartitionLabel), minimum: 2 << 30, greedy: grow && !limited,
	}}
	for _, v := range cfg.UserVolumeConfigs() {
		if v.Type().ValueOr(block.VolumeTypePartition) == block.VolumeTypeDirectory {
			continue
		}
		_, limited := v.Provisioning().MaxSize().Get()
		list = append(list, volumeRequest{
			id: constants.UserVolumePrefix + v.Name(), provisioning: v.Provisioning(), encryption: v.Encryption(),
			greedy: v.Provisioning().Grow().ValueOr(false) && !limited,
		})
	}
	for _, v := range cfg.RawVolumeConfigs() {
		list = append(list, volumeRequest{id: constants.RawVolumePrefix + v.Name(), provisioning: v.Provisioning(), encryption: v.Encryption()})
	}
	return list
}

// encryptionOf finds a system volume's encryption in a VolumeConfig or in machine.systemDiskEncryption.
func encryptionOf(cfg config.Config, name string) config.EncryptionConfig {
	if v, ok := cfg.Volumes().ByName(name); ok && encrypted(v.Encryption()) {
		return v.Encryption()
	}
	if cfg.Machine() != nil {
		return cfg.Machine().SystemDiskEncryption().Get(name)
	}
	return nil
}

// volumeResult is the outcome of opening or making a volume.
type volumeResult struct {
	id     string
	disk   *volumeDisk
	volume volumeState
	size   uint64
	phase  block.VolumePhase
	err    error
}

func (r volumeResult) resource() *block.VolumeStatus {
	status := block.NewVolumeStatus(block.NamespaceName, r.id)
	spec := status.TypedSpec()
	spec.Type = block.VolumeTypePartition
	spec.Phase = r.phase
	if r.err != nil {
		spec.PreFailPhase, spec.ErrorMessage = block.VolumePhaseLocated, r.err.Error()
	}
	if r.disk != nil {
		spec.ParentLocation = r.disk.spec.TypedSpec().DevPath
		index := partitionIndex(r.id)
		spec.PartitionIndex = index
		spec.Location = fmt.Sprintf("%s%d", spec.ParentLocation, index)
		spec.MountLocation = spec.Location
	}
	spec.UUID, spec.PartitionUUID = r.volume.UUID, r.volume.UUID
	spec.Filesystem = block.FilesystemTypeXFS
	if r.id == constants.MetaPartitionLabel {
		spec.Filesystem = block.FilesystemTypeNone
	}
	if r.volume.Provider != "" {
		spec.EncryptionProvider = block.EncryptionProviderLUKS2
		spec.MountLocation = "/dev/dm-" + fmt.Sprint(spec.PartitionIndex)
		for i, k := range r.volume.Keys {
			spec.ConfiguredEncryptionKeys = append(spec.ConfiguredEncryptionKeys, k.Kind)
			spec.EncryptionLockedToState = spec.EncryptionLockedToState || k.State != ""
			if k.Kind == "tpm" && i == 0 && k.PCR7 != "" {
				spec.TPMEncryptionOptions.PCRs = []int{constants.SecureBootStatePCR}
			}
			if k.Kind == "tpm" && i == 0 {
				spec.TPMEncryptionOptions.PubKeyPCRs = []int{constants.UKIPCR}
			}
		}
		if len(r.volume.Keys) > 0 {
			slot := r.volume.Keys[0].Slot
			spec.EncryptionSlot = &slot
		}
	}
	spec.SetSize(r.size)
	return status
}

// partitionIndex follows Talos' layout of a UEFI system disk; other volumes come first on their own disks.
func partitionIndex(id string) int {
	switch id {
	case constants.MetaPartitionLabel:
		return 2
	case constants.StatePartitionLabel:
		return 3
	case constants.EphemeralPartitionLabel:
		return 4
	default:
		return 1
	}
}
