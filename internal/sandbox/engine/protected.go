package engine

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// ProtectedError is an operation's refusal to replace or delete what is protected.
type ProtectedError struct {
	// Resources are the names of the protected resources with their types, sorted.
	Resources []string
}

// Error names the resources and both ways out.
func (e *ProtectedError) Error() string {
	return fmt.Sprintf("refused, because it would replace or delete what is protected: %s; to keep it, undo the change in the stack's configuration; "+
		"to lose it on purpose, run `up` with `protect: false` in cloudlab:cluster and nothing else changed, then repeat",
		strings.Join(e.Resources, ", "))
}

// protectedURN finds the resource in the engine's words: "unable to replace resource …", "resource … cannot be deleted".
var protectedURN = regexp.MustCompile(`(?:unable to replace resource "([^"]+)"\s+as it is currently marked for protection|` +
	`resource "([^"]+)" cannot be deleted\s+because it is protected)`)

// protected reads an error's text; nil means that protection was not the cause.
func protected(text string) error {
	var resources []string
	for _, found := range protectedURN.FindAllStringSubmatch(text, -1) {
		parts := strings.Split(found[1]+found[2], "::")
		kind := parts[max(0, len(parts)-2)]
		resource := fmt.Sprintf("%s (%s)", parts[len(parts)-1], kind[strings.LastIndex(kind, "$")+1:])
		if !slices.Contains(resources, resource) {
			resources = append(resources, resource)
		}
	}
	if len(resources) == 0 {
		return nil
	}
	slices.Sort(resources)
	return &ProtectedError{Resources: resources}
}
