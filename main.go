// Command cloudlab is the Pulumi program: `pulumi up` brings up the cluster of the selected stack.
package main

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"cloudlab/internal/stack"
)

func main() { pulumi.Run(stack.Deploy) }
