package toolchain

import "path/filepath"

// DefaultCache is where a clone keeps what it built, below its project folder. Sandboxes of one clone share it.
func DefaultCache(root string) string { return filepath.Join(root, ".sandbox", "toolchain") }
