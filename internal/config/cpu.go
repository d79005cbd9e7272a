package config

import (
	"slices"
	"strings"
)

const defaultCPU = "host"

// cpuTypes are the CPU models which the Proxmox provider accepts and which have what Talos needs (x86-64-v2), best known first.
func cpuTypes() []string {
	return []string{
		"host", "max", "x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4",
		"Broadwell", "Broadwell-IBRS", "Broadwell-noTSX", "Broadwell-noTSX-IBRS",
		"Cascadelake-Server", "Cascadelake-Server-noTSX", "Cascadelake-Server-v2", "Cascadelake-Server-v4", "Cascadelake-Server-v5",
		"Cooperlake", "Cooperlake-v2",
		"EPYC", "EPYC-IBPB", "EPYC-Milan", "EPYC-Rome", "EPYC-Rome-v2", "EPYC-v3", "EPYC-v4",
		"Haswell", "Haswell-IBRS", "Haswell-noTSX", "Haswell-noTSX-IBRS",
		"Icelake-Client", "Icelake-Client-noTSX", "Icelake-Server", "Icelake-Server-noTSX",
		"Icelake-Server-v3", "Icelake-Server-v4", "Icelake-Server-v5", "Icelake-Server-v6",
		"IvyBridge", "IvyBridge-IBRS", "KnightsMill", "Nehalem", "Nehalem-IBRS", "Opteron_G4", "Opteron_G5",
		"SandyBridge", "SandyBridge-IBRS", "SapphireRapids",
		"Skylake-Client", "Skylake-Client-IBRS", "Skylake-Client-noTSX-IBRS", "Skylake-Client-v4",
		"Skylake-Server", "Skylake-Server-IBRS", "Skylake-Server-noTSX-IBRS", "Skylake-Server-v4", "Skylake-Server-v5",
		"Westmere", "Westmere-IBRS",
	}
}

// oldCPUTypes are accepted by Proxmox but lack a feature of x86-64-v2 (SSE4.2, POPCNT, …).
func oldCPUTypes() []string {
	return []string{
		"486", "Conroe", "Opteron_G1", "Opteron_G2", "Opteron_G3", "Penryn", "athlon", "core2duo", "coreduo",
		"kvm32", "kvm64", "pentium", "pentium2", "pentium3", "phenom", "qemu32", "qemu64",
	}
}

// cpuType checks a CPU model. A custom one (custom-<name>) is the operator's own responsibility.
func (c *checker) cpuType(path string, raw *string) string {
	model := or(raw, defaultCPU)

	switch custom, ok := strings.CutPrefix(model, "custom-"); {
	case slices.Contains(cpuTypes(), model), ok && spelt(custom, maxName, alnum+"_-", alnum+"_-"):
	case slices.Contains(oldCPUTypes(), model):
		c.reject(path, model, "a CPU type with x86-64-v2, without which Talos does not boot", "write host, or x86-64-v2-AES to migrate between unlike hosts")
	default:
		suggestion := write(nearest(model, cpuTypes()))
		if suggestion == "" {
			suggestion = "write host, or x86-64-v2-AES to migrate between unlike hosts"
		}

		c.reject(path, model, "a CPU type that the Proxmox provider knows", suggestion)
	}

	return model
}
