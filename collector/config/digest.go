package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"

	"opper_exporter/opper"
)

// digest returns a hash of all that a project is configured by, except its key.
func digest(p Project) string {
	h := sha256.New()
	p.Digest = ""
	writeValue(h, reflect.ValueOf(p))
	return hex.EncodeToString(h.Sum(nil))
}

// writeValue writes a value so that no other one looks the same. It follows
// whatever a project will be made of, and panics where it cannot.
func writeValue(w io.Writer, v reflect.Value) {
	switch v.Type() {
	case reflect.TypeFor[opper.KeySource]():
		return
	case reflect.TypeFor[opper.Transport](): // functions, made from what the ID is of
		v = v.FieldByName("ID")
	case reflect.TypeFor[*regexp.Regexp]():
		if !v.IsNil() {
			v = reflect.ValueOf(v.Interface().(*regexp.Regexp).String())
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			writeValue(w, field)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		_, _ = fmt.Fprintf(w, "%d\n", len(keys))
		for _, key := range keys {
			writeValue(w, key)
			writeValue(w, v.MapIndex(key))
		}
	case reflect.Slice:
		_, _ = fmt.Fprintf(w, "%d\n", v.Len())
		for i := range v.Len() {
			writeValue(w, v.Index(i))
		}
	case reflect.Pointer, reflect.Func, reflect.Interface:
		if v.IsNil() {
			_, _ = io.WriteString(w, "nil\n")
			return
		}
		if v.Kind() != reflect.Pointer {
			panic(fmt.Sprintf("no digest of a %s", v.Type()))
		}
		writeValue(w, v.Elem())
	case reflect.String:
		_, _ = fmt.Fprintf(w, "%q\n", v.String())
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		_, _ = fmt.Fprintf(w, "%#v\n", v)
	default:
		panic(fmt.Sprintf("no digest of a %s", v.Type()))
	}
}
