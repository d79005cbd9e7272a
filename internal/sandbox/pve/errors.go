package pve

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// apiError is a failed API call as Proxmox VE reports it: the message becomes the reason phrase of the status line.
type apiError struct {
	status  int
	message string
	fields  map[string]string
}

func (e *apiError) Error() string {
	var b strings.Builder
	b.WriteString(e.message)
	for _, key := range sortedKeys(e.fields) {
		fmt.Fprintf(&b, "\n%s: %s", key, e.fields[key])
	}
	return b.String()
}

// die is a plain failure, which the API turns into status 500.
func die(format string, args ...any) error {
	return &apiError{status: http.StatusInternalServerError, message: fmt.Sprintf(format, args...)}
}

func paramErrors(fields map[string]string) error {
	return &apiError{status: http.StatusBadRequest, message: "Parameter verification failed.", fields: fields}
}

func paramError(name, format string, args ...any) error {
	return paramErrors(map[string]string{name: fmt.Sprintf(format, args...)})
}

func permissionError(what string) error {
	message := "Permission check failed"
	if what != "" {
		message += " (" + what + ")"
	}
	return &apiError{status: http.StatusForbidden, message: message}
}

func unauthorized(format string, args ...any) error {
	return &apiError{status: http.StatusUnauthorized, message: fmt.Sprintf(format, args...)}
}

func notImplemented(method, path string) error {
	return &apiError{status: http.StatusNotImplemented, message: fmt.Sprintf("Method '%s %s' not implemented", method, path)}
}

func asAPIError(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	return &apiError{status: http.StatusInternalServerError, message: err.Error()}
}

// flatten gives the text of an error as a task's exit status shows it: one line, without a status code for plain failures.
func flatten(err error) string {
	var e *apiError
	text := err.Error()
	if errors.As(err, &e) && e.status != http.StatusInternalServerError {
		text = fmt.Sprintf("%d %s", e.status, text)
	}
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\n", " ")), " ")
}
