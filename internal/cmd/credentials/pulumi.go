package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// pulumiOutputs asks the pulumi command. Its arguments hold no secret; the outputs come over a pipe.
func pulumiOutputs(ctx context.Context, dir, stack string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, "pulumi", "stack", "output", "--json", "--show-secrets", "--non-interactive", "--stack", stack)
	cmd.Dir = dir
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("the pulumi command is not installed: `mise install` brings it")
	}
	if err != nil {
		return nil, fmt.Errorf("read the outputs of stack %q: %w: %s", stack, err, strings.TrimSpace(problems.String()))
	}
	var values map[string]any
	if err := json.Unmarshal(out.Bytes(), &values); err != nil {
		// Not %w: the message of a JSON error may quote the input.
		return nil, fmt.Errorf("read the outputs of stack %q: pulumi did not answer with a JSON object", stack)
	}
	outputs := map[string]string{}
	for name, value := range values {
		if text, ok := value.(string); ok {
			outputs[name] = text
		}
	}
	return outputs, nil
}
