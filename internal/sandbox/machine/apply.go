package machine

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	machineapi "github.com/siderolabs/talos/pkg/machinery/api/machine"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configdiff"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/container"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/role"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metal is the validation mode of machines with a disk to install to.
type metal struct{ installed bool }

func (metal) String() string          { return "metal" }
func (m metal) RequiresInstall() bool { return !m.installed }
func (metal) InContainer() bool       { return false }

const (
	applyReboot   = machineapi.ApplyConfigurationRequest_REBOOT
	applyAuto     = machineapi.ApplyConfigurationRequest_AUTO
	applyNoReboot = machineapi.ApplyConfigurationRequest_NO_REBOOT
	applyStaged   = machineapi.ApplyConfigurationRequest_STAGED
	applyTry      = machineapi.ApplyConfigurationRequest_TRY
)

// ApplyConfiguration implements machine.MachineServiceServer.
func (m *machineServer) ApplyConfiguration(ctx context.Context, req *machineapi.ApplyConfigurationRequest) (*machineapi.ApplyConfigurationResponse, error) {
	s := m.sys
	if !s.apply.TryLock() {
		return nil, status.Error(codes.FailedPrecondition, "another apply configuration is already in progress")
	}
	defer s.apply.Unlock()
	s.mu.Lock()
	rebooting := s.rebooting
	s.mu.Unlock()
	if rebooting {
		return nil, status.Error(codes.FailedPrecondition, "configuration was already applied and node is rebooting, "+
			"cannot apply more configuration changes until next reboot")
	}
	current := s.config()
	maintenance := current == nil || !current.CompleteForBoot()
	if !maintenance && !rolesOf(ctx).Includes(role.Admin) {
		return nil, errNotAuthorized
	}
	if req.GetMode() != applyTry {
		s.cancelRollback()
	}
	cfg, warnings, err := s.validate(ctx, req.GetData(), maintenance)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	mode, details, err := decide(current, cfg, req.GetMode(), maintenance)
	if err != nil {
		return nil, err
	}
	answer := &machineapi.ApplyConfiguration{Mode: mode, ModeDetails: details}
	if req.GetDryRun() {
		if answer.ModeDetails, err = dryRun(current, cfg, details); err != nil {
			return nil, err
		}
		return &machineapi.ApplyConfigurationResponse{Messages: []*machineapi.ApplyConfiguration{answer}}, nil
	}
	answer.Warnings = warnings
	s.guest.printf("apply config request: mode %s", strings.ToLower(mode.String()))
	if mode == applyTry {
		timeout := constants.ConfigTryTimeout
		if req.GetTryModeTimeout() != nil {
			timeout = req.GetTryModeTimeout().AsDuration()
		}
		answer.ModeDetails += fmt.Sprintf("\nThe config is applied in 'try' mode and will be automatically reverted back in %s", timeout)
		s.rollbackAfter(timeout, current)
	}
	if err := s.applyIn(mode, cfg, maintenance); err != nil {
		return nil, err
	}
	return &machineapi.ApplyConfigurationResponse{Messages: []*machineapi.ApplyConfiguration{answer}}, nil
}

// validate loads and checks a configuration as the machine does.
func (s *system) validate(ctx context.Context, data []byte, maintenance bool) (config.Provider, []string, error) {
	cfg, err := configloader.NewFromBytes(data)
	if err != nil {
		return nil, nil, err
	}
	if !maintenance && cfg.RawV1Alpha1() == nil {
		return nil, nil, errors.New("the applied machine configuration doesn't contain v1alpha1 config, did you mean to patch the machine config instead?")
	}
	mode := metal{installed: s.systemVolume() != ""}
	warnings, err := cfg.Validate(mode)
	if err != nil {
		return nil, nil, err
	}
	more, err := cfg.RuntimeValidate(ctx, s.state, mode)
	if err != nil {
		return nil, nil, err
	}
	return cfg, slices.Concat(warnings, more), nil
}

// decide resolves the mode by which a configuration is applied.
func decide(current, cfg config.Provider, mode machineapi.ApplyConfigurationRequest_Mode, maintenance bool) (machineapi.ApplyConfigurationRequest_Mode, string, error) {
	const without = "Applied configuration without a reboot"
	if maintenance && mode == applyReboot {
		mode = applyNoReboot
	}
	switch mode {
	case applyTry, applyNoReboot:
		if err := canApplyNow(current, cfg); err != nil && !maintenance {
			return mode, "", status.Error(codes.InvalidArgument, err.Error())
		}
		return mode, without, nil
	case applyStaged:
		return mode, "Staged configuration to be applied after the next reboot", nil
	case applyAuto:
		if err := canApplyNow(current, cfg); err != nil && !maintenance {
			return applyReboot, "Applied configuration with a reboot: " + err.Error(), nil
		}
		return applyNoReboot, without, nil
	case applyReboot:
		return mode, "Applied configuration with a reboot", nil
	default:
		return mode, "", fmt.Errorf("incorrect mode '%s' specified for the apply config call", mode)
	}
}

func dryRun(current, cfg config.Provider, details string) (string, error) {
	var old config.Provider = container.NewV1Alpha1(nil)
	if current != nil {
		old = current
	}
	diff, err := configdiff.DiffConfigs(old, cfg)
	if err != nil {
		return "", fmt.Errorf("failed to generate diff: %w", err)
	}
	if diff == "" {
		diff = "No changes."
	}
	details, _, _ = strings.Cut(details, ":")
	return fmt.Sprintf("Dry run summary:\n%s (skipped in dry-run).\nConfig diff:\n\n%s", details, diff), nil
}

// applyIn carries out the decided mode.
func (s *system) applyIn(mode machineapi.ApplyConfigurationRequest_Mode, cfg config.Provider, maintenance bool) error {
	if mode != applyTry {
		if err := s.persist(cfg); err != nil {
			return err
		}
	}
	switch mode {
	case applyTry, applyNoReboot:
		s.activate(cfg, maintenance)
	case applyReboot:
		s.mu.Lock()
		s.rebooting = true
		s.mu.Unlock()
		s.takeover(request{kind: reboot})
	default: // the next boot finds it on the disk
	}
	return nil
}

// activate puts a configuration in force now; a complete one ends maintenance mode.
func (s *system) activate(cfg config.Provider, maintenance bool) {
	if maintenance && cfg.CompleteForBoot() {
		s.mu.Lock()
		s.active = cfg
		s.mu.Unlock()
		s.submit(request{kind: configured})
		return
	}
	s.setActive(cfg)
	s.guest.mu.Lock()
	running := s.guest.phase == PhaseRunning
	s.guest.mu.Unlock()
	if running {
		s.configuredHook()
	}
}

func (s *system) cancelRollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rollback != nil {
		s.rollback.Stop()
		s.rollback = nil
	}
}

func (s *system) rollbackAfter(timeout time.Duration, old config.Provider) {
	s.cancelRollback()
	if old == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rollback = time.AfterFunc(timeout, func() {
		if s.ctx.Err() != nil {
			return
		}
		s.guest.printf("rolling back the configuration")
		s.setActive(old)
	})
}

// canApplyNow is nil when the change touches nothing but what Talos v1.13 applies without a reboot. Documents other than
// v1alpha1 always apply at once.
func canApplyNow(current, cfg config.Provider) error {
	if current == nil {
		return errors.New("no current config")
	}
	old, changed := current.RawV1Alpha1(), cfg.RawV1Alpha1()
	if old == nil {
		return errors.New("current config is not v1alpha1")
	}
	if changed == nil {
		return errors.New("new config is not v1alpha1")
	}
	changed = changed.DeepCopy()
	changed.ConfigDebug, changed.ClusterConfig = old.ConfigDebug, old.ClusterConfig
	if changed.MachineConfig != nil && old.MachineConfig != nil {
		ignoreImmediate(old.MachineConfig, changed.MachineConfig)
	}
	if reflect.DeepEqual(old, changed) {
		return nil
	}
	diff, err := configdiff.DiffConfigs(container.NewV1Alpha1(old), container.NewV1Alpha1(changed))
	if err != nil {
		return fmt.Errorf("error calculating diff: %w", err)
	}
	return fmt.Errorf("this config change can't be applied in immediate mode\ndiff:\n%s", diff)
}

// immediateFields names the fields of the machine section that apply at once.
func immediateFields() []string {
	return []string{
		"MachineCA", "MachineAcceptedCAs", "MachineTime", "MachineCertSANs", "MachineInstall", "MachineNetwork", "MachineSysfs",
		"MachineSysctls", "MachineLogging", "MachineControlPlane", "MachineKubelet", "MachineKernel", "MachineRegistries",
		"MachinePods", "MachineSeccompProfiles", "MachineNodeAnnotations", "MachineNodeLabels", "MachineNodeTaints",
	}
}

// immediateFeatures does the same for machine.features.
func immediateFeatures() []string {
	return []string{
		"KubernetesTalosAPIAccessConfig", "KubePrismSupport", "HostDNSSupport", "ImageCacheSupport", "FeatureNodeAddressSortAlgorithm",
	}
}

func ignoreImmediate(old, changed *v1alpha1.MachineConfig) {
	copyFields(old, changed, immediateFields())
	if old.MachineFeatures != nil && changed.MachineFeatures != nil {
		copyFields(old.MachineFeatures, changed.MachineFeatures, immediateFeatures())
	}
}

func copyFields[T any](from, to *T, names []string) {
	source, target := reflect.ValueOf(from).Elem(), reflect.ValueOf(to).Elem()
	for _, name := range names {
		if f := target.FieldByName(name); f.IsValid() {
			f.Set(source.FieldByName(name))
		}
	}
}
