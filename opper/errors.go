package opper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

const maxErrorBody = 64 << 10 // bytes

var (
	// ErrNotFound is a 404.
	ErrNotFound = errors.New("not found")
	// ErrPostponed is the error of a request that was not made, see WaitUntil.
	ErrPostponed = errors.New("postponed")
	// ErrTooLarge is an answer of more than Options.MaxBody bytes.
	ErrTooLarge = errors.New("answer too large")
)

// Error is an answer of Opper with a status other than 2xx. It has none of the
// texts of that answer: they can repeat a trace's input, a header or the key, in
// more spellings than could be found again.
type Error struct {
	Status int
	Reason string // in our words; may be empty
	// Code is Opper's own word for the reason, such as not_found, if it is made of
	// words that we know; else empty.
	Code string

	after retryAfter
}

// Error returns the status and the reason.
func (e *Error) Error() string {
	text := fmt.Sprintf("opper answered %d", e.Status)
	if name := http.StatusText(e.Status); name != "" {
		text += " " + name
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Is makes a 404 an ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// brokenError is a request without a usable answer. Its text is ours, because
// that of net/http can quote what the server sent.
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

// RetryAfter returns how long Opper asks to wait, at most an hour; 0 if it does not.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.after.wait
	}
	return 0
}

// Answered reports whether err is what Opper answers to this request: it does not
// refuse the key, and does not ask for fewer requests.
func Answered(err error) bool {
	s := status(err)
	return s != 0 && s != http.StatusTooManyRequests && !Refused(err)
}

// Permanent reports whether asking again soon is useless: Opper refuses the request,
// or does not have what was asked for. It is false for a 401, which a new key ends.
func Permanent(err error) bool {
	s := status(err)
	return s >= 300 && s <= 499 && !slices.Contains([]int{401, 408, 429}, s) ||
		errors.Is(err, ErrNoGroup) || errors.Is(err, errNoBudget)
}

// OutOfRange reports whether err, of a listing, may say that Opper does not go
// as far as that offset: 400, 404, 416 or 422.
func OutOfRange(err error) bool {
	return slices.Contains([]int{400, 404, 416, 422}, status(err))
}

// HTML reports whether a web page came in place of an answer of the API, as from a
// gateway or a login page.
func HTML(err error) bool {
	if broken, ok := errors.AsType[*brokenError](err); ok {
		return broken.text == htmlText
	}
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == htmlReason
}

// What the errors of an HTML page say.
const (
	htmlReason = "HTML page"
	htmlText   = "an HTML page instead of JSON"
)

// status returns that of an *Error; 0 for others.
func status(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

// newError classifies an answer by its status and the beginning of its body.
func newError(status int, body []byte, html bool) *Error {
	e := &Error{Status: status}
	whole := len(body) < maxErrorBody
	body = bytes.TrimSpace(body)
	switch {
	case status >= 300 && status <= 399:
		e.Reason = "redirect not followed"
	case html || len(body) > 0 && body[0] == '<':
		e.Reason = htmlReason
	case whole && len(body) > 0 && !json.Valid(body):
		e.Reason = "not JSON"
	default:
		e.Code = errorCode(body)
		e.Reason = reasons[status]
		if e.Reason == "" && len(body) == 0 {
			e.Reason = "empty body"
		}
	}
	return e
}

var reasons = map[int]string{
	http.StatusBadRequest:          "parameter refused",
	http.StatusUnauthorized:        "invalid key",
	http.StatusForbidden:           "key has no access, or the account is suspended",
	http.StatusUnprocessableEntity: "parameter refused",
	http.StatusTooManyRequests:     "rate limited",
}

// errorCode finds the code of an error, whatever its shape. Messages and details
// are left out: they may repeat what was sent.
func errorCode(body []byte) string {
	var answer struct{ Code, Type, Error any }
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	candidates := []any{answer.Error, answer.Code, answer.Type}
	if nested, ok := answer.Error.(map[string]any); ok {
		candidates = []any{nested["code"], nested["type"]}
	}
	for _, c := range candidates {
		if text, ok := c.(string); ok && isErrorCode(text) {
			return text
		}
	}
	return ""
}

// isErrorCode reports whether a text is made of words of errors alone, as in
// not_found, NotFound or rate-limit.exceeded. So it can carry no secret.
func isErrorCode(text string) bool {
	if len(text) > maxErrorCode {
		return false
	}
	words := codeWord.FindAllString(text, -1)
	for _, word := range words {
		if !slices.Contains(codeWords, strings.ToLower(word)) {
			return false
		}
	}
	return len(words) > 0 && strings.Trim(codeWord.ReplaceAllString(text, ""), "_.-") == ""
}

const maxErrorCode = 64 // bytes

var (
	codeWord  = regexp.MustCompile(`[A-Z]+[a-z]*|[a-z]+`)
	codeWords = strings.Fields(`
		access account api argument auth authentication authorization auth bad billing blocked body budget conflict connection content
		credential credentials credits database denied disabled error exceeded exception expired failed failure field forbidden found gateway
		header http id input insufficient internal invalid key large length limit limited malformed maintenance many media method missing
		model name not of offset organization out overloaded page parameter parameters payload payment permission project query quota
		range rate request requests required resource revoked server service spend suspended temporarily throttled timeout to token too
		trace traces type unauthenticated unauthorized unavailable unexpected unknown unprocessable unsupported upstream user validation value
		entity wrong`)
)
