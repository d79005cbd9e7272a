package proxmox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/muhlba91/pulumi-proxmoxve/sdk/v6/go/proxmoxve/download"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"cloudlab/internal/config"
)

const (
	// imageTimeout bounds a download, in seconds: about 120 MiB from the Image Factory, which builds it on first request.
	imageTimeout = 600
	// schematicDigits of the schematic ID make the file name unique and readable.
	schematicDigits = 12
)

// BootImage is the SecureBoot ISO on the ISO datastore of every Proxmox node that hosts a machine.
type BootImage struct {
	pulumi.ResourceState

	// FileIDs maps a Proxmox node to the volume ID of the ISO there, e.g. local:iso/cloudlab-talos-….iso.
	FileIDs map[string]pulumi.IDOutput
}

// BootImageArgs describe the image.
type BootImageArgs struct {
	Cluster *config.Cluster
	// Schematic is the Image Factory's schematic ID; URL is where the ISO comes from.
	Schematic, URL pulumi.StringOutput
}

// NewBootImage downloads the ISO. Its file name carries cluster, version and schematic, so that a new image never overwrites
// one that a machine still boots from, and two clusters on one node never share a file.
func NewBootImage(ctx *pulumi.Context, name string, args BootImageArgs, opts ...pulumi.ResourceOption) (*BootImage, error) {
	image := &BootImage{FileIDs: map[string]pulumi.IDOutput{}}
	inputs := pulumi.Map{"schematic": args.Schematic, "url": args.URL}
	if err := ctx.RegisterComponentResourceV2("cloudlab:proxmox:BootImage", name, inputs, image, opts...); err != nil {
		return nil, fmt.Errorf("boot image: %w", err)
	}
	cluster := args.Cluster
	fileName := args.Schematic.ApplyT(func(id string) (string, error) {
		if len(id) < schematicDigits {
			return "", fmt.Errorf("boot image: the Image Factory answered with schematic ID %q: expected 64 hex digits", id)
		}
		return fmt.Sprintf("%s-talos-%s-%s-secureboot.iso", cluster.Name, cluster.TalosVersion, id[:schematicDigits]), nil
	}).(pulumi.StringOutput)

	outputs, identity := pulumi.Map{}, imageIdentity(cluster)
	for _, node := range proxmoxNodes(cluster) {
		fileArgs := &download.FileArgs{
			ContentType: pulumi.String("iso"),
			DatastoreId: pulumi.String(cluster.Proxmox.Datastores.ISO),
			NodeName:    pulumi.String(node),
			Url:         args.URL,
			FileName:    fileName,
			// With Overwrite the provider would ask the factory for the size on every refresh and replace the file when it differs.
			Overwrite: pulumi.Bool(false),
			// An interrupted run leaves a file that is not in the state yet.
			OverwriteUnmanaged: pulumi.Bool(true),
			UploadTimeout:      pulumi.Int(imageTimeout),
		}
		if algorithm, sum, ok := strings.Cut(cluster.Image.Checksum, ":"); ok {
			fileArgs.ChecksumAlgorithm = pulumi.String(algorithm)
			fileArgs.Checksum = pulumi.String(sum)
		}
		// A resource of its own per file, instead of replacements of one: after a replacement that was interrupted and then undone,
		// Pulumi would delete the file by the name that is in use again.
		file, err := download.NewFile(ctx, strings.Join([]string{name, node, cluster.TalosVersion, identity}, "-"), fileArgs, pulumi.Parent(image),
			// They say how the content comes, not what it is.
			pulumi.IgnoreChanges([]string{"url", "checksum", "checksumAlgorithm"}))
		if err != nil {
			return nil, fmt.Errorf("boot image on Proxmox node %q: %w", node, err)
		}
		image.FileIDs[node] = file.ID()
		outputs[node] = file.ID()
	}
	if err := ctx.RegisterResourceOutputs(image, pulumi.Map{"fileIds": outputs}); err != nil {
		return nil, fmt.Errorf("boot image: %w", err)
	}
	return image, nil
}

// imageIdentity tells files of one Talos version apart before the factory has named the schematic.
func imageIdentity(cluster *config.Cluster) string {
	parts := append([]string{cluster.Name, cluster.Proxmox.Datastores.ISO, cluster.Image.Schematic}, cluster.Image.Extensions...)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:4])
}

// proxmoxNodes lists the Proxmox nodes in use, in the order of the machines.
func proxmoxNodes(cluster *config.Cluster) []string {
	var nodes []string
	seen := map[string]bool{}
	for _, node := range cluster.Nodes {
		if !seen[node.ProxmoxNode] {
			seen[node.ProxmoxNode] = true
			nodes = append(nodes, node.ProxmoxNode)
		}
	}
	return nodes
}
