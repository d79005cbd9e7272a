package sopsfile

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// The kinds of failure, for [errors.Is]. What callers get is an [*Error] that also says which file and what to do.
var (
	// ErrMissing: the file does not exist.
	ErrMissing = errors.New("file is missing")
	// ErrAmbiguous: more than one secrets file exists.
	ErrAmbiguous = errors.New("more than one secrets file")
	// ErrUnsupported: neither YAML nor JSON by its name, or not a regular file.
	ErrUnsupported = errors.New("unsupported file")
	// ErrMalformed: the content is not YAML or JSON, or its sops metadata is damaged.
	ErrMalformed = errors.New("malformed file")
	// ErrNotEncrypted: values are stored in clear.
	ErrNotEncrypted = errors.New("file is not encrypted")
	// ErrNoIdentity: no place holds an age identity.
	ErrNoIdentity = errors.New("no age identity")
	// ErrBadIdentity: a place that should hold an age identity holds something else or cannot be read.
	ErrBadIdentity = errors.New("unusable age identity")
	// ErrKeyFileMode: the age key file can be read by others.
	ErrKeyFileMode = errors.New("age key file is readable by others")
	// ErrIdentityMismatch: the file is encrypted for other recipients.
	ErrIdentityMismatch = errors.New("no age identity matches a recipient")
	// ErrTampered: the content was changed after encryption.
	ErrTampered = errors.New("file was changed after encryption")
	// ErrNoKey: the file lacks a required key.
	ErrNoKey = errors.New("key is missing")
	// ErrMalformedToken: the Proxmox API token has the wrong form.
	ErrMalformedToken = errors.New("malformed Proxmox API token")
	// ErrNoRule: .sops.yaml is missing or has no rule for the file.
	ErrNoRule = errors.New("no creation rule")
	// ErrBadRule: the rule in .sops.yaml cannot be used.
	ErrBadRule = errors.New("unusable creation rule")
	// ErrNotOurs: the file that is to be replaced is not a sops file.
	ErrNotOurs = errors.New("existing file is not a sops file")
	// ErrWrite: the file system refused the new file; the old one is intact.
	ErrWrite = errors.New("cannot write file")
)

// Error is a failure with the object it is about and the next step.
type Error struct {
	Kind error  // one of the Err… values
	Path string // the file or the place (such as SOPS_AGE_KEY) that it is about
	What string // what is wrong, without secrets
	Next string // what to do
	Err  error  // the cause, when it is safe to show
}

// Error says where, what and what to do.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.What)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}

// Unwrap makes the kind and the cause visible to [errors.Is].
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// position finds a line number in a parser's message.
var position = regexp.MustCompile(`\bline \d+`)

// parseProblem describes a parser's error without quoting the input, which may hold secrets.
func parseProblem(format string, err error) string {
	if at := position.FindString(err.Error()); at != "" {
		return "not valid " + format + " near " + at
	}
	return "not valid " + format
}
