package opper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxMessage   = 200      // bytes
	maxErrorBody = 64 << 10 // bytes
)

var (
	// ErrNotFound is a 404.
	ErrNotFound = errors.New("not found")
	// ErrTooLarge is an answer of more than Options.MaxBody bytes.
	ErrTooLarge = errors.New("answer too large")
)

// Error is an answer of Opper with a status other than 2xx.
type Error struct {
	Status  int
	Message string // Opper's own, one line of at most 200 bytes; may be empty

	after retryAfter
}

// Error returns the status and Opper's message.
func (e *Error) Error() string {
	text := fmt.Sprintf("opper answered %d", e.Status)
	if name := http.StatusText(e.Status); name != "" {
		text += " " + name
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is makes a 404 an ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// brokenError is a request without a usable answer. It keeps only the text of
// its cause, because that of net/http can quote what the server sent.
type brokenError struct {
	text    string
	reached bool // a connection had been made
}

func (e *brokenError) Error() string { return e.text }

// Unreadable reports whether the reason of err may be the content of what was
// asked for, so that asking for less may help: a body that is too large,
// malformed or cut, a request that timed out, a 5xx. It is false where the
// service or the key is the reason, or the end of the context.
func Unreadable(err error) bool {
	if broken, ok := errors.AsType[*brokenError](err); ok {
		return broken.reached
	}
	return errors.Is(err, ErrTooLarge) || status(err) >= 500
}

// Refused reports whether Opper refuses the key: 401 or 403.
func Refused(err error) bool {
	return slices.Contains([]int{401, 403}, status(err))
}

// OutOfRange reports whether err, of a listing, may say that Opper does not go
// as far as that offset: 400, 404, 416 or 422.
func OutOfRange(err error) bool {
	return slices.Contains([]int{400, 404, 416, 422}, status(err))
}

// status returns that of an *Error; 0 for others.
func status(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

// message finds Opper's own words in the body of an error.
func message(body []byte, html bool) string {
	body = bytes.TrimSpace(body)
	var v any
	switch {
	case len(body) == 0:
		return ""
	case json.Unmarshal(body, &v) == nil:
		return words(v)
	case html || body[0] == '<':
		return "an HTML page"
	case body[0] == '{' || body[0] == '[':
		return "malformed JSON"
	}
	return string(body)
}

// words collects the texts that are meant to be read. Other fields are left
// out: a validation error repeats what it was given.
func words(v any) string {
	var found []string
	add := func(v any) {
		if text := words(v); text != "" && !slices.Contains(found, text) {
			found = append(found, text)
		}
	}
	switch v := v.(type) {
	case string:
		return strings.TrimSpace(v)
	case []any:
		for _, v := range v {
			add(v)
		}
		return strings.Join(found, "; ")
	case map[string]any:
		for _, key := range []string{"error", "message", "msg", "reason", "detail"} {
			add(v[key])
		}
		if found == nil {
			add(v["type"])
			add(v["code"])
		}
	}
	return strings.Join(found, ": ")
}

// clean makes a text that came from outside fit to be shown: one line, short,
// without the key.
func clean(text, key string) string {
	quoted := strconv.Quote(key) // net/http quotes what it cannot read
	text = strings.NewReplacer(key, "<key>", quoted[1:len(quoted)-1], "<key>").Replace(text)
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > maxMessage {
		end := maxMessage
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return text
}
