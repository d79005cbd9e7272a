package pve

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is a parameter as it arrived: a scalar's text, or the name Perl gives to a reference that is not a scalar.
type value struct {
	text      string
	reference string // ARRAY, HASH or empty
}

var (
	numberPattern  = regexp.MustCompile(`^[+-]?(\d+\.\d+|\d+\.|\.\d+|\d+)([eE][+-]?\d+)?$`)
	integerPattern = regexp.MustCompile(`^[+-]?\d+$`)
)

// validate checks a call's parameters against its method and returns the scalars.
func (s *schema) validate(m *method, params map[string]value) (map[string]string, error) {
	errs := map[string]string{}
	s.checkObject(m.Parameters, params, "", errs)
	if len(errs) > 0 {
		return nil, paramErrors(errs)
	}
	result := make(map[string]string, len(params))
	for key, v := range params {
		result[key] = v.text
	}
	return result, nil
}

func (s *schema) checkObject(f fields, values map[string]value, path string, errs map[string]string) {
	for name, p := range f {
		v, present := values[name]
		full := joinPath(path, name)
		if !present {
			if !bool(p.Optional) && p.Alias == "" {
				addError(errs, full, "property is missing and it is not optional")
			}
			continue
		}
		s.checkValue(p, v, full, errs)
	}
	for name := range values {
		p := f[name]
		if p == nil {
			addError(errs, joinPath(path, name), "property is not defined in schema and the schema does not allow additional properties")
			continue
		}
		if _, ok := values[p.Requires]; p.Requires != "" && !ok {
			addError(errs, joinPath(path, p.Requires), fmt.Sprintf("missing property - '%s' requires this property", joinPath(path, name)))
		}
	}
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func addError(errs map[string]string, path, message string) {
	if old, ok := errs[path]; ok {
		message = old + `\n` + message
	}
	errs[path] = message
}

func (s *schema) checkValue(p *property, v value, path string, errs map[string]string) {
	if message := checkType(p.Type, v); message != "" {
		addError(errs, path, message)
		return
	}
	if err := s.checkFormat(p.Format, v.text, path); err != nil {
		addError(errs, path, "invalid format - "+strings.TrimSuffix(err.Error(), "\n")+"\n")
		return
	}
	if p.expression != nil && !p.expression.MatchString(v.text) {
		addError(errs, path, "value does not match the regex pattern")
		return
	}
	if message := checkBounds(p, v.text); message != "" {
		addError(errs, path, message)
		return
	}
	if len(p.Enum) == 0 {
		return
	}
	for _, allowed := range p.Enum {
		if allowed == v.text {
			return
		}
	}
	addError(errs, path, fmt.Sprintf("value '%s' does not have a value in the enumeration '%s'", v.text, strings.Join(p.Enum, ", ")))
}

func checkType(kind string, v value) string {
	if v.reference != "" {
		return fmt.Sprintf("type check ('%s') failed - got %s", kind, v.reference)
	}
	ok := true
	switch kind {
	case "boolean":
		ok = v.text == "1" || v.text == "0"
	case "integer":
		ok = integerPattern.MatchString(v.text)
	case "number":
		ok = numberPattern.MatchString(v.text)
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("type check ('%s') failed - got '%s'", kind, v.text)
}

func checkBounds(p *property, text string) string {
	length := number(utf8.RuneCountInString(text))
	if p.MaxLength != nil && length > *p.MaxLength {
		return fmt.Sprintf("value may only be %s characters long", p.MaxLength)
	}
	if p.MinLength != nil && length < *p.MinLength {
		return fmt.Sprintf("value must be at least %s characters long", p.MinLength)
	}
	if !numberPattern.MatchString(text) {
		return ""
	}
	amount, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Sprintf("type check ('%s') failed - got '%s'", p.Type, text)
	}
	if p.Maximum != nil && amount > float64(*p.Maximum) {
		return fmt.Sprintf("value must have a maximum value of %s", p.Maximum)
	}
	if p.Minimum != nil && amount < float64(*p.Minimum) {
		return fmt.Sprintf("value must have a minimum value of %s", p.Minimum)
	}
	return ""
}

// checkFormat checks a text against a named format or the fields of a property string.
func (s *schema) checkFormat(f format, text, path string) error {
	if f.fields != nil {
		_, err := s.parseProperties(f.fields, text, path)
		return err
	}
	if f.name == "" {
		return nil
	}
	if named, ok := s.formats[f.name]; ok {
		values, err := s.parseProperties(named, text, path)
		if err == nil && f.name == "pve-vm-cpu-conf" {
			return checkCPU(values)
		}
		return err
	}
	if name, ok := strings.CutSuffix(f.name, "-list"); ok {
		for _, item := range splitList(text) {
			if err := checkNamedFormat(name, item); err != nil {
				return err
			}
		}
		return nil
	}
	return checkNamedFormat(f.name, text)
}

// splitList splits a list parameter, which may use commas, semicolons or spaces.
func splitList(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' || r == '\n' || r == 0 })
}
