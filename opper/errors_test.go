package opper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestErrorMessages(t *testing.T) {
	for name, test := range map[string]struct{ contentType, body, want string }{
		"nothing":             {"", "", ""},
		"v2 detail text":      {"", `{"type":"Bad","message":"bad request","detail":"limit is 100"}`, "bad request: limit is 100"},
		"v2 detail object":    {"", `{"type":"Bad","message":"bad request","detail":{"reason":"limit is 100","input":"private"}}`, "bad request: limit is 100"},
		"v2 detail list":      {"", `{"type":"Bad","message":"bad request","detail":[{"loc":["query","limit"],"msg":"too large","input":"private"},"and more"]}`, "bad request: too large; and more"},
		"v2 detail repeated":  {"", `{"message":"gone","detail":"gone"}`, "gone"},
		"v2 detail null":      {"", `{"message":"gone","detail":null}`, "gone"},
		"v2 type only":        {"", `{"type":"NotFound","detail":{"input":"private"}}`, "NotFound"},
		"detail list only":    {"", `{"detail":[{"msg":"a"},{"msg":"b"}]}`, "a; b"},
		"v3 object":           {"", `{"error":{"code":"not_found","message":"no such trace"}}`, "no such trace"},
		"v3 code only":        {"", `{"error":{"code":"not_found"}}`, "not_found"},
		"v3 text":             {"", `{"error":"no such trace"}`, "no such trace"},
		"JSON text":           {"", `"no such trace"`, "no such trace"},
		"JSON of other kinds": {"", `{"input":"private","n":5}`, ""},
		"JSON list":           {"", `[{"id":"a","output":"private"}]`, ""},
		"broken JSON":         {"", `{"message":"private`, "malformed JSON"},
		"plain text":          {"text/plain", "upstream \r\n timed\x1b[31m out\u202e\u2028 now\x00", "upstream timed [31m out now"},
		"HTML":                {"text/html; charset=utf-8", "  <!DOCTYPE html><h1>private</h1>", "an HTML page"},
		"HTML without a type": {"text/plain", "<h1>private</h1>", "an HTML page"},
		"HTML without a tag":  {"text/html", "private", "an HTML page"},
		"control characters":  {"", `{"error":"a\u0000b\nc\u0085d` + "\xff" + `"}`, "a b c d\uFFFD"},
	} {
		for _, status := range []int{400, 401, 403, 404, 422, 429, 500, 502} {
			f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
				if test.contentType != "" {
					w.Header().Set("Content-Type", test.contentType)
				}
				answer(status, test.body)(w, r)
			})
			_, err := f.WithRetries(0).List(t.Context(), 0, 100)
			want := fmt.Sprintf("list traces: opper answered %d %s", status, http.StatusText(status))
			if test.want != "" {
				want += ": " + test.want
			}
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %q, want %q", name, err, want)
			}
		}
	}
}

func TestErrorMessageIsShort(t *testing.T) {
	for _, body := range []string{strings.Repeat("é", 500), "x" + strings.Repeat("é", 500), "xx" + strings.Repeat("😀", 100_000)} {
		f := newFixture(t, answer(404, body))
		_, err := f.List(t.Context(), 0, 100)
		e, ok := errors.AsType[*Error](err)
		if !ok || len(e.Message) > 200 || len(e.Message) < 197 || !utf8.ValidString(e.Message) || !strings.HasPrefix(body, e.Message) {
			t.Errorf("got %v, want a valid message of up to 200 bytes", err)
		}
	}
}

func TestEndlessErrorIsCut(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		answer(400, strings.Repeat("x", 2*maxErrorBody))(w, r)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := f.List(ctx, 0, 100); status(err) != 400 || ctx.Err() != nil {
		t.Errorf("got %v, %v, want the 400 without waiting for the rest", err, ctx.Err())
	}
}

// A server that repeats the request's Authorization in any way it can.
func TestKeyIsNeverInAnError(t *testing.T) {
	raw := func(format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			cut(fmt.Sprintf(format, r.Header.Get("Authorization")))(w, r)
		}
	}
	echo := func(status int, format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			answer(status, fmt.Sprintf(format, r.Header.Get("Authorization")))(w, r)
		}
	}
	handlers := map[string]http.HandlerFunc{
		"status line":   raw("%s\r\n\r\n"),
		"header line":   raw("HTTP/1.1 200 OK\r\n%s\r\n\r\n"),
		"version":       raw("HTTP/%s 200 OK\r\n\r\n"),
		"status text":   raw("HTTP/1.1 404 %s\r\nContent-Length: 0\r\n\r\n"),
		"status number": raw("HTTP/1.1 %s\r\n\r\n"),
		"length":        raw("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
		"encoding":      raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"),
		"chunk":         raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"),
		"location":      raw("HTTP/1.1 302 Found\r\nLocation: http://%s/\r\nContent-Length: 0\r\n\r\n"),
		"retry after":   raw("HTTP/1.1 429 Slow\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n"),
		"location host": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://"+url.PathEscape(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))+".example/")
			w.WriteHeader(302)
		},
		"at the end of a long body": func(w http.ResponseWriter, r *http.Request) {
			key := r.Header.Get("Authorization")
			answer(400, "no: "+strings.Repeat(" ", maxErrorBody-len(key)-1)+key)(w, r)
		},
		"key in JSON": func(w http.ResponseWriter, r *http.Request) {
			answer(401, fmt.Sprintf(`{"error":{"message":%q}}`, r.Header.Get("Authorization")))(w, r)
		},
		"key in a data page": echo(200, `{"data":[{"input":"%s`),
	}
	for _, status := range []int{302, 400, 401, 403, 404, 422, 429, 500, 503} {
		for _, format := range []string{
			"%s", "bad key %s\n", "<html>%s</html>", `{"message":"%s","detail":"%[1]s"}`, `{"error":{"code":"%s","message":"%[1]s"}}`, `{"error":"%s"}`,
			`{"detail":[{"msg":"%s"}]}`, `{"message":"%s`, strings.Repeat("x", 190) + "%s",
		} {
			handlers[fmt.Sprint(status, format)] = echo(status, format)
		}
	}
	for name, handler := range handlers {
		for _, key := range []string{testKey, "op-SECRETplain"} {
			f := newFixture(t, handler, func(o *Options) {
				var err error
				if o.Key, err = FixedKey(key); err != nil {
					t.Fatal(err)
				}
			})
			client := f.WithRetries(0)
			_, errList := client.List(t.Context(), 0, 100)
			_, errGet := client.Get(t.Context(), "a")
			for _, err := range []error{errList, errGet} {
				for e := err; ; e = errors.Unwrap(e) {
					if e == nil {
						break
					}
					if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, "SECRET") {
						t.Errorf("%s: the key is in %s", name, text)
					}
				}
				if err == nil {
					t.Errorf("%s: got no error", name)
				}
			}
		}
	}
}

func TestClassification(t *testing.T) {
	type classes struct{ unreadable, refused, outOfRange, notFound bool }
	for _, test := range []struct {
		err  error
		want classes
	}{
		{&Error{Status: 302}, classes{}},
		{&Error{Status: 400}, classes{outOfRange: true}},
		{&Error{Status: 401}, classes{refused: true}},
		{&Error{Status: 403}, classes{refused: true}},
		{&Error{Status: 404}, classes{outOfRange: true, notFound: true}},
		{&Error{Status: 416}, classes{outOfRange: true}},
		{&Error{Status: 422}, classes{outOfRange: true}},
		{&Error{Status: 429}, classes{}},
		{&Error{Status: 500}, classes{unreadable: true}},
		{&Error{Status: 503}, classes{unreadable: true}},
		{ErrTooLarge, classes{unreadable: true}},
		{&brokenError{reached: true}, classes{unreadable: true}},
		{&brokenError{}, classes{}},
		{context.Canceled, classes{}},
		{context.DeadlineExceeded, classes{}},
		{errors.New("another"), classes{}},
		{nil, classes{}},
	} {
		err := test.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		got := classes{Unreadable(err), Refused(err), OutOfRange(err), errors.Is(err, ErrNotFound)}
		if got != test.want {
			t.Errorf("%v: got %+v, want %+v", test.err, got, test.want)
		}
	}
}

func TestUnreadableAnswers(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"cut body":       cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":["),
		"truncated JSON": answer(200, `{"data":[`),
		"HTML":           answer(200, `<html></html>`),
		"502":            answer(502, ``),
	} {
		f := newFixture(t, handler)
		if _, err := f.WithRetries(0).List(t.Context(), 0, 100); !Unreadable(err) {
			t.Errorf("%s: got %v, want it unreadable", name, err)
		}
	}
}

func TestHTMLInsteadOfJSON(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		answer(200, "<html>private</html>")(w, r)
	})
	_, err := f.WithRetries(0).List(t.Context(), 0, 100)
	if err == nil || err.Error() != "list traces: an HTML page instead of JSON" {
		t.Errorf("got %v", err)
	}
}
