package engine

import (
	"regexp"
	"slices"
	"strings"
)

// cause is a known cause of a failed operation.
type cause struct {
	says *regexp.Regexp
	// next is the next step; $1 and so on stand for what the pattern found.
	next string
}

// causes are known by what Proxmox says. The provider hands it on without a word about what to do.
func causes() []cause {
	return []cause{
		{
			regexp.MustCompile(`Permission check failed \(([^,()]+), ([^()]+)\)`),
			`the role of the API token lacks $2 on $1: compare it with the role in the README`,
		},
		{
			regexp.MustCompile(`HTTP 401 response`),
			`Proxmox refuses the API token: create it anew and put it into secrets.enc.json, then run up again`,
		},
		{
			regexp.MustCompile(`free space in thin pool|[Nn]o space left|not enough free space|Cannot write to '[^']+'`),
			`a datastore of Proxmox is full: make room, or choose another in cloudlab:proxmox datastores, then run up again`,
		},
		{
			regexp.MustCompile(`error waiting for VM start|error starting VM|to enter the status "running"`),
			`the machine may exist without running: read the task's log in Proxmox, then run refresh, which sees it as it is, and up`,
		},
		{
			regexp.MustCompile(`failed to complete with exit code: WARNINGS`),
			`Proxmox did it with warnings, which the provider takes for a failure: read the task's log in Proxmox, then run up again`,
		},
		{
			regexp.MustCompile(`download failed:`),
			`Proxmox could not fetch the boot image: see that the node reaches the Image Factory, then run up again`,
		},
		{
			regexp.MustCompile(`failed to create schematic`),
			`the Image Factory did not answer as it should: see that it is reachable from here, then run up again`,
		},
		{
			regexp.MustCompile(`HTTP 5\d\d response|failed to perform HTTP|connection refused|i/o timeout`),
			`Proxmox did not answer as it should: see that it is reachable and its services pveproxy and pvedaemon are well, then run up again; ` +
				`what was made is kept`,
		},
	}
}

// advice lists the next steps for what an operation said, the most likely first.
func advice(text string) []string {
	var steps []string
	for _, c := range causes() {
		match := c.says.FindStringSubmatchIndex(text)
		if match == nil {
			continue
		}
		if step := string(c.says.ExpandString(nil, c.next, text, match)); !slices.Contains(steps, step) {
			steps = append(steps, step)
		}
	}
	return steps[:min(len(steps), 2)]
}

// advised adds the next steps to an error's first line.
func advised(first, text string) string {
	return strings.Join(append([]string{first}, advice(text)...), ": ")
}
