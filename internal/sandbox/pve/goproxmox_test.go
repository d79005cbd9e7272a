package pve

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luthermonson/go-proxmox"
)

// TestIndependentClient drives the simulator with a client that knows nothing of it.
func TestIndependentClient(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := proxmox.NewClient(l.address+"/api2/json", proxmox.WithHTTPClient(l.client), proxmox.WithAPIToken(testTokenID, testSecret))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	await := func(task *proxmox.Task, err error) {
		t.Helper()
		must(err)
		must(task.Wait(ctx, 10*time.Millisecond, 10*time.Second))
		if task.IsFailed {
			t.Fatalf("task %s: %s", task.UPID, task.ExitStatus)
		}
	}

	version, err := client.Version(ctx)
	must(err)
	if version.Version != "8.4.5" || version.Release != "8.4" {
		t.Errorf("version %+v", version)
	}
	nodes, err := client.Nodes(ctx)
	must(err)
	if len(nodes) != 1 || nodes[0].Node != "pve" || nodes[0].Status != "online" {
		t.Errorf("nodes %+v", nodes)
	}
	cluster, err := client.Cluster(ctx)
	must(err)
	next, err := cluster.NextID(ctx)
	must(err)
	if next != 100 {
		t.Errorf("next ID %d", next)
	}
	node, err := client.Node(ctx, "pve")
	must(err)
	if node.CPUInfo.CPUs != 32 || node.Memory.Total != 128<<30 {
		t.Errorf("node %+v", node)
	}
	storages, err := node.Storages(ctx)
	must(err)
	if len(storages) != 2 {
		t.Errorf("storages %+v", storages)
	}
	storage, err := node.StorageISO(ctx)
	must(err)
	file := filepath.Join(t.TempDir(), "up.iso")
	must(os.WriteFile(file, []byte(isoContent), 0o600))
	await(storage.Upload("iso", file))
	await(storage.DownloadURL(ctx, "iso", "talos.iso", l.web.URL+"/image/talos.iso"))
	iso, err := storage.ISO(ctx, "talos.iso")
	must(err)

	await(node.NewVirtualMachine(ctx, 101,
		proxmox.VirtualMachineOption{Name: "name", Value: "cp-1"},
		proxmox.VirtualMachineOption{Name: "cores", Value: 4},
		proxmox.VirtualMachineOption{Name: "memory", Value: 4096},
		proxmox.VirtualMachineOption{Name: "machine", Value: "q35"},
		proxmox.VirtualMachineOption{Name: "agent", Value: "1"},
		proxmox.VirtualMachineOption{Name: "scsi0", Value: "local-lvm:8"},
		proxmox.VirtualMachineOption{Name: "ide2", Value: "local:iso/talos.iso,media=cdrom"},
		proxmox.VirtualMachineOption{Name: "net0", Value: "virtio,bridge=vmbr0"},
	))
	vm, err := node.VirtualMachine(ctx, 101)
	must(err)
	if vm.Name != "cp-1" || vm.CPUs != 4 || !vm.IsStopped() || *vm.VirtualMachineConfig.Cores != 4 || vm.VirtualMachineConfig.Machine != "q35" {
		t.Errorf("machine %+v, config %+v", vm, vm.VirtualMachineConfig)
	}
	await(vm.Start(ctx))
	must(vm.Ping(ctx))
	if !vm.IsRunning() {
		t.Errorf("status %s", vm.Status)
	}
	// Of the guest agent only the interfaces are simulated, and nothing else pretends to be.
	if _, err := vm.AgentOsInfo(ctx); err == nil || !strings.Contains(err.Error(), "501 Method 'GET /nodes/pve/qemu/101/agent/get-osinfo' not implemented") {
		t.Errorf("operating system: %v", err)
	}
	interfaces, err := vm.AgentGetNetworkIFaces(ctx)
	must(err)
	if len(interfaces) != 1 || interfaces[0].IPAddresses[0].IPAddress != "192.0.2.11" {
		t.Errorf("interfaces %+v", interfaces)
	}
	await(vm.Config(ctx, proxmox.VirtualMachineOption{Name: "description", Value: "changed"}))
	await(vm.ResizeDisk(ctx, "scsi0", "+1G"))
	await(vm.Reboot(ctx))
	await(vm.Stop(ctx))
	await(vm.Delete(ctx, nil))
	await(iso.Delete(ctx))
	up, err := storage.ISO(ctx, "up.iso")
	must(err)
	await(up.Delete(ctx))
	if inventory := l.Inventory(); len(inventory.Machines)+len(inventory.Volumes) != 0 {
		t.Errorf("left over: %+v", inventory)
	}
}
