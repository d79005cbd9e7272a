package stack

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// TestMachineSettings holds every setting without which a machine does not boot Talos under SecureBoot, or loses what it stores.
func TestMachineSettings(t *testing.T) {
	recording := newProject(t, "three-plus-two").must()
	for _, name := range []string{"cp-1", "cp-2", "cp-3", "gpu", "worker"} {
		t.Run(name, func(t *testing.T) {
			inputs := recording.Resource(t, vmType, name).Inputs.Mappable()
			want := map[string]any{
				"machine": "q35", "bios": "ovmf", "scsiHardware": "virtio-scsi-pci", "bootOrders": []any{"scsi0", "ide2"},
				"stopOnDestroy": true, "started": true, "onBoot": true, "tabletDevice": false, "poolId": "lab/cloudlab",
				"efiDisk":         map[string]any{"datastoreId": "local-zfs", "fileFormat": "raw", "type": "4m", "preEnrolledKeys": false},
				"tpmState":        map[string]any{"datastoreId": "local-zfs", "version": "v2.0"},
				"operatingSystem": map[string]any{"type": "l26"},
				// The fixture ejects the medium.
				"cdrom": map[string]any{"enabled": true, "fileId": "none", "interface": "ide2"},
			}
			for key, value := range want {
				if diff := cmp.Diff(value, inputs[key]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", key, diff)
				}
			}
			if memory := inputs["memory"].(map[string]any); memory["floating"] != 0.0 {
				t.Errorf("memory %v: ballooning takes memory from a node that counts on it", memory)
			}
			agent := inputs["agent"].(map[string]any)
			if agent["enabled"] != true || agent["timeout"] == nil || agent["timeout"] == "15m" {
				t.Errorf("agent %v: want it enabled, with a short timeout", agent)
			}
			for _, disk := range inputs["disks"].([]any) {
				disk := disk.(map[string]any)
				if disk["fileFormat"] != "raw" || disk["discard"] != "on" || disk["datastoreId"] != "ceph" {
					t.Errorf("disk %v: want raw, with discard, on ceph", disk)
				}
			}
			for _, timeout := range []string{"timeoutCreate", "timeoutStartVm", "timeoutReboot", "timeoutShutdownVm", "timeoutStopVm"} {
				if seconds, _ := inputs[timeout].(float64); seconds <= 0 || seconds > 600 {
					t.Errorf("%s is %v: the provider's own is half an hour", timeout, inputs[timeout])
				}
			}
		})
	}
}

func TestMachineFollowsItsConfiguration(t *testing.T) {
	recording := newProject(t, "three-plus-two").must()
	gpu := recording.Resource(t, vmType, "gpu").Inputs.Mappable()
	want := map[string]any{
		"name": "gpu", "nodeName": "pve2", "vmId": 105.0, "tags": []any{"cloudlab", "production", "talos"},
		"cpu":    map[string]any{"cores": 16.0, "sockets": 1.0, "type": "x86-64-v3"},
		"memory": map[string]any{"dedicated": 65536.0, "floating": 0.0},
	}
	for key, value := range want {
		if diff := cmp.Diff(value, gpu[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	network := gpu["networkDevices"].([]any)[0].(map[string]any)
	for key, value := range map[string]any{"bridge": "vmbr1", "vlanId": 20.0, "mtu": 9000.0, "macAddress": "BC:24:11:00:00:05", "model": "virtio", "firewall": false} {
		if network[key] != value {
			t.Errorf("network device: %s is %v, want %v", key, network[key], value)
		}
	}
	if disks := gpu["disks"].([]any); len(disks) != 1 || disks[0].(map[string]any)["size"] != 100.0 {
		t.Errorf("disks %v, want one of 100 GiB", disks)
	}
	if disks := recording.Resource(t, vmType, "cp-1").Inputs["disks"].ArrayValue(); len(disks) != 2 || disks[1].ObjectValue()["interface"].StringValue() != "scsi1" {
		t.Errorf("disks %v, want a data disk on scsi1", disks)
	}
	lone := newProject(t, "single-node").must().Resource(t, vmType, "cp-1").Inputs
	if cpu := lone["cpu"].ObjectValue()["type"].StringValue(); cpu != "host" {
		t.Errorf("CPU type %s, want the host's by default", cpu)
	}
	if _, set := lone["poolId"]; set {
		t.Error("a pool although none is configured")
	}
	// Volume IDs come from the boot image; without eject the medium stays in.
	if iso := lone["cdrom"].ObjectValue()["fileId"].StringValue(); !strings.HasPrefix(iso, "boot-image-pve") {
		t.Errorf("medium %s, want the boot image", iso)
	}
}

// TestOwnerMark: the mark in the description tells this incarnation's machines from those of others, and gives no secret away.
func TestOwnerMark(t *testing.T) {
	recording := newProject(t, "three-plus-two").must()
	bundle, err := throwAway()
	if err != nil {
		t.Fatal(err)
	}
	marks := map[string]bool{}
	for _, name := range []string{"cp-1", "worker"} {
		description := recording.Resource(t, vmType, name).Inputs["description"]
		if description.IsSecret() {
			t.Fatalf("machine %s: the description is secret, so that no diff could be read", name)
		}
		text := description.StringValue()
		_, mark, ok := strings.Cut(text, "cloudlab-owner=")
		if !ok || len(mark) != 12 || !strings.Contains(text, name) || !strings.Contains(text, "cluster home") {
			t.Errorf("machine %s: description %q", name, text)
		}
		marks[mark] = true
	}
	if len(marks) != 1 || marks[bundle.Cluster.ID] {
		t.Errorf("marks %v, want one that is not the cluster's ID", marks)
	}
	if owner := recording.Outputs["secrets"]["owner"]; !marks[owner.StringValue()] {
		t.Errorf("owner %v, want %v", owner, marks)
	}
}

func TestBootImage(t *testing.T) {
	var files []resource.PropertyMap
	for _, r := range newProject(t, "three-plus-two").must().Resources {
		if r.Type == fileType {
			files = append(files, r.Inputs)
		}
	}
	if len(files) != 2 {
		t.Fatalf("%d images, want one on every Proxmox node that hosts a machine", len(files))
	}
	for _, file := range files {
		got := file.Mappable()
		for key, value := range map[string]any{
			"contentType": "iso", "datastoreId": "nas-iso", "overwrite": false, "overwriteUnmanaged": true, "checksumAlgorithm": "sha256",
			"url": "https://factory.example.com/image/" + schematicID + "/v1.13.0/metal-amd64-secureboot.iso",
		} {
			if got[key] != value {
				t.Errorf("%s is %v, want %v", key, got[key], value)
			}
		}
		name := got["fileName"].(string)
		for _, part := range []string{"home", "v1.13.0", schematicID[:12], ".iso"} {
			if !strings.Contains(name, part) {
				t.Errorf("file name %s lacks %s, so two images could be one file", name, part)
			}
		}
	}
}

// TestFirstContact: the first config goes to whatever address answers, the later ones to the static address.
func TestFirstContact(t *testing.T) {
	got := newProject(t, "single-node").must()
	for _, name := range []string{"cp-1-install", "cp-1-configure"} {
		inputs := got.Resource(t, applyType, name).Inputs
		if endpoint := inputs["endpoint"].StringValue(); endpoint != "192.0.2.11:50000" {
			t.Errorf("%s: endpoint %s", name, endpoint)
		}
		if node := inputs["node"].StringValue(); node != "192.0.2.11" {
			t.Errorf("%s: node %s", name, node)
		}
		if value := inputs["machineConfigurationInput"]; !value.IsSecret() {
			t.Errorf("%s: the machine config is no secret", name)
		}
	}
}
