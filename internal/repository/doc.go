// Package repository has tests only: they hold the repository itself to its rules, where no compiler would notice a
// breach. They read files and run one tool, actionlint, which Go builds in seconds.
//
// What costs a tool is checked by .ci/run instead: golangci-lint, `go vet`, `go mod tidy -diff`.
package repository
