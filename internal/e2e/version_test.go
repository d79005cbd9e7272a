package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// TestVersions: another Talos version is another ISO and another machine config, but neither another machine nor other secrets.
func TestVersions(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := sandboxStack(t)
	c.cluster["talosVersion"], c.cluster["kubernetesVersion"] = "v1.13.0", "v1.36.0"
	l.mustWith(c, changes{"create": 15}, "up")
	secrets, disks, installed := l.decrypted("machine-secrets"), l.disks(), l.resource("cp-1-install")

	c.cluster["talosVersion"] = "v1.13.9"
	l.mustWith(c, versionChange(), "up")
	l.checkVersion(secrets, disks, installed, "v1.13.9", "v1.36.0")
	l.mustWith(c, changes{"same": 15}, "up")
	l.mustWith(c, changes{"same": 15}, "refresh")

	c.cluster["kubernetesVersion"] = "v1.36.4"
	l.mustWith(c, changes{"update": 1, "same": 14}, "up")
	l.checkVersion(secrets, disks, installed, "v1.13.9", "v1.36.4")

	// Talos' provider would replace the machine secrets when the version is lowered.
	c.cluster["talosVersion"] = "v1.13.0"
	l.mustWith(c, versionChange(), "up")
	l.checkVersion(secrets, disks, installed, "v1.13.0", "v1.36.4")
	l.mustWith(c, changes{"delete": 15}, "destroy")
	l.mustBeEmpty()
}

// versionChange is one ISO for another, and in place the VM, its config and what three components record.
func versionChange() changes { return changes{"create": 1, "delete": 1, "update": 5, "same": 9} }

// checkVersion: the image and the config are of these versions, all else is as it was.
func (l *lab) checkVersion(secrets []byte, disks []string, installed, talos, kubernetes string) {
	l.t.Helper()
	l.awaitRunning()
	if diff := cmp.Diff(string(secrets), string(l.decrypted("machine-secrets"))); diff != "" {
		l.t.Fatal("the machine secrets were replaced")
	}
	if diff := cmp.Diff(disks, l.disks()); diff != "" {
		l.t.Errorf("disks (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(installed, l.resource("cp-1-install")); diff != "" {
		l.t.Errorf("the install resource (-before +after):\n%s", diff)
	}
	if n := strings.Count(l.machineLogs()[101], "install successful"); n != 1 {
		l.t.Errorf("installed %d times, want once", n)
	}
	var isos []string
	for _, volume := range l.Proxmox.Inventory().Volumes {
		if volume.Content == "iso" {
			isos = append(isos, volume.ID)
		}
	}
	if len(isos) != 1 || !strings.Contains(isos[0], "-talos-"+talos+"-") {
		l.t.Errorf("ISOs %v, want the one of %s", isos, talos)
	}
	if cd := vmByID(l.t, l.Proxmox.Inventory(), 101).Config["ide2"]; len(isos) == 1 && !strings.HasPrefix(cd, isos[0]+",") {
		l.t.Errorf("CD-ROM %q, want %s", cd, isos[0])
	}
	var config struct {
		Machine struct {
			Install struct{ Image string }
			Kubelet struct{ Image string }
		}
	}
	if err := yaml.Unmarshal(l.machineConfig("192.0.2.11"), &config); err != nil {
		l.t.Fatal(err)
	}
	if !strings.HasSuffix(config.Machine.Install.Image, ":"+talos) || !strings.HasSuffix(config.Machine.Kubelet.Image, ":"+kubernetes) {
		l.t.Errorf("machine config %+v, want Talos %s and Kubernetes %s", config, talos, kubernetes)
	}
}
