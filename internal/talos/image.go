package talos

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumiverse/pulumi-talos/sdk/go/talos/imagefactory"
	"sigs.k8s.io/yaml"

	"cloudlab/internal/config"
)

// Image is what the machines boot and install: one schematic of the Image Factory at one Talos version.
type Image struct {
	pulumi.ResourceState

	// Schematic is the schematic's ID.
	Schematic pulumi.StringOutput
	// ISO is the URL of the SecureBoot ISO; Installer the reference of the SecureBoot installer with the same extensions.
	ISO, Installer pulumi.StringOutput
}

// NewImage registers the schematic with the Image Factory, unless one is given.
func NewImage(ctx *pulumi.Context, name string, cluster *config.Cluster, opts ...pulumi.ResourceOption) (*Image, error) {
	image := &Image{}
	inputs := pulumi.Map{
		"talosVersion": pulumi.String(cluster.TalosVersion),
		"extensions":   pulumi.ToStringArray(cluster.Image.Extensions),
	}
	if err := ctx.RegisterComponentResourceV2("cloudlab:talos:Image", name, inputs, image, opts...); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	image.Schematic = pulumi.String(cluster.Image.Schematic).ToStringOutput()
	if cluster.Image.Schematic == "" {
		text, err := Schematic(cluster.Image.Extensions)
		if err != nil {
			return nil, err
		}
		schematic, err := imagefactory.NewSchematic(ctx, name, &imagefactory.SchematicArgs{Schematic: pulumi.String(text)}, pulumi.Parent(image))
		if err != nil {
			return nil, fmt.Errorf("image: schematic: %w", err)
		}
		image.Schematic = schematic.ID().ToStringOutput()
	}
	factory, version := cluster.Image.Factory, cluster.TalosVersion
	image.ISO = pulumi.Sprintf("%s/image/%s/%s/metal-amd64-secureboot.iso", factory.String(), image.Schematic, version)
	image.Installer = pulumi.Sprintf("%s/metal-installer-secureboot/%s:%s", factory.Host, image.Schematic, version)
	outputs := pulumi.Map{"schematic": image.Schematic, "iso": image.ISO, "installer": image.Installer}
	if err := ctx.RegisterResourceOutputs(image, outputs); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return image, nil
}

// Schematic renders what the Image Factory is asked for. The ID it answers with depends on the order of the extensions.
func Schematic(extensions []string) (string, error) {
	text, err := yaml.Marshal(object{"customization": object{"systemExtensions": object{"officialExtensions": extensions}}})
	if err != nil {
		return "", fmt.Errorf("image: schematic: %w", err)
	}
	return string(text), nil
}
