package config

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decode stores a tree in a raw value and reports whatever does not fit, going on with the rest.
// A value that does not fit stays absent.
func decode(t *tree, path string, into reflect.Value, c *checker) {
	if t.kind == null {
		c.add(Defect{Path: path, Value: "null", Expected: describe(into.Type()), Suggestion: "give a value or remove the key"})

		return
	}

	switch into.Kind() {
	case reflect.Pointer:
		value := reflect.New(into.Type().Elem())
		if before := len(c.defects); decodeScalar(t, path, value.Elem(), c) && len(c.defects) == before {
			into.Set(value)
		}
	case reflect.String:
		decodeScalar(t, path, into, c)
	case reflect.Slice:
		decodeList(t, path, into, c)
	case reflect.Map:
		decodeMap(t, path, into, c)
	default:
		decodeStruct(t, path, into, c)
	}
}

func decodeScalar(t *tree, path string, into reflect.Value, c *checker) bool {
	switch kind := into.Kind(); {
	case kind == reflect.String && t.kind == text:
		into.SetString(t.literal)

		return true
	case kind == reflect.Bool && t.kind == boolean:
		into.SetBool(t.literal == "true")

		return true
	case kind == reflect.Int && t.kind == number:
		if n, err := strconv.Atoi(t.literal); err == nil {
			into.SetInt(int64(n))

			return true
		}
	}

	c.add(Defect{Path: path, Value: t.String(), Expected: describe(into.Type()), Suggestion: retype(t, into.Kind())})

	return false
}

// retype suggests the quotes that YAML needs or does not need.
func retype(t *tree, want reflect.Kind) string {
	switch {
	case want == reflect.String && (t.kind == number || t.kind == boolean):
		return `write "` + t.literal + `" in quotes`
	case want == reflect.Int && t.kind == text:
		if n, err := strconv.Atoi(t.literal); err == nil {
			return "write " + strconv.Itoa(n) + " without quotes"
		}
	case want == reflect.Bool && t.kind == text && (t.literal == "true" || t.literal == "false"):
		return "write " + t.literal + " without quotes"
	}

	return ""
}

func decodeList(t *tree, path string, into reflect.Value, c *checker) {
	if t.kind != list {
		d := Defect{Path: path, Value: t.String(), Expected: describe(into.Type())}
		if t.kind == text && into.Type().Elem().Kind() == reflect.String {
			d.Suggestion = "write it as a list with one entry"
		}

		c.add(d)

		return
	}

	into.Set(reflect.MakeSlice(into.Type(), len(t.items), len(t.items)))

	for i, item := range t.items {
		decode(item, index(path, i), into.Index(i), c)
	}
}

func decodeMap(t *tree, path string, into reflect.Value, c *checker) {
	if t.kind != object {
		c.add(Defect{Path: path, Value: t.String(), Expected: describe(into.Type())})

		return
	}

	into.Set(reflect.MakeMap(into.Type()))

	for i, key := range t.keys {
		value := reflect.New(into.Type().Elem()).Elem()
		decode(t.items[i], join(path, key), value, c)
		into.SetMapIndex(reflect.ValueOf(key), value)
	}
}

func decodeStruct(t *tree, path string, into reflect.Value, c *checker) {
	if t.kind != object {
		c.add(Defect{Path: path, Value: t.String(), Expected: describe(into.Type()), Suggestion: "its keys are " + strings.Join(keysOf(into.Type()), ", ")})

		return
	}

	known := keysOf(into.Type())
	free := make([]string, 0, len(known))

	for _, key := range known {
		if !slices.Contains(t.keys, key) {
			free = append(free, key)
		}
	}

	for i, key := range t.keys {
		if field := fieldOf(into, key); field.IsValid() {
			decode(t.items[i], join(path, key), field, c)

			continue
		}

		near := nearest(key, free)
		if near != "" {
			// The value was meant for this key: do not also report it as missing.
			c.excuse(join(path, near))
			c.add(Defect{Path: join(path, key), Value: strconv.Quote(key), Expected: "a known key", Suggestion: write(near)})

			continue
		}

		suggestion := "the known keys are " + strings.Join(known, ", ")
		if isSecretive(key) {
			suggestion = "secrets belong into secrets.enc.json, edit that with sops"
		}

		c.add(Defect{Path: join(path, key), Value: strconv.Quote(key), Expected: "a known key", Suggestion: suggestion})
	}
}

// isSecretive tells whether a key sounds like a secret's.
func isSecretive(key string) bool {
	lower := strings.ToLower(key)

	return slices.ContainsFunc([]string{"token", "password", "secret"}, func(word string) bool { return strings.Contains(lower, word) })
}

// describe says what a raw type stands for.
func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Int:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return "a list of strings"
		}

		return "a list of maps"
	default:
		return "a map"
	}
}

// keyOf is the json tag's name.
func keyOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")

	return name
}

func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = keyOf(t.Field(i))
	}

	return keys
}

func fieldOf(v reflect.Value, key string) reflect.Value {
	for i := range v.NumField() {
		if keyOf(v.Type().Field(i)) == key {
			return v.Field(i)
		}
	}

	return reflect.Value{}
}
