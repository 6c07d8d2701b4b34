package opper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
)

const private = "the customer's own words"

func TestErrorReasons(t *testing.T) {
	v2 := `{"type":%s,"message":"` + private + `","detail":[{"loc":["query","limit"],"msg":"` + private + `","input":"` + private + `"}]}`
	for name, test := range map[string]struct {
		status                          int
		contentType, body, reason, code string
	}{
		"v2":                  {422, "", fmt.Sprintf(v2, `"NotFound"`), "parameter refused", "NotFound"},
		"v2 other type":       {404, "", fmt.Sprintf(v2, `"`+private+`"`), "", ""},
		"v2 message":          {404, "", `{"message":"not_found","detail":"not_found"}`, "", ""},
		"v2 type object":      {404, "", fmt.Sprintf(v2, `{"a":"`+private+`"}`), "", ""},
		"v3":                  {401, "", `{"error":{"code":"invalid_api_key","message":"` + private + `"}}`, "invalid key", "invalid_api_key"},
		"v3 type":             {403, "", `{"error":{"code":null,"type":"account.suspended"}}`, "key has no access, or the account is suspended", "account.suspended"},
		"v3 code number":      {429, "", `{"error":{"code":429}}`, "rate limited", ""},
		"v3 text":             {400, "", `{"error":"` + private + `"}`, "parameter refused", ""},
		"v3 text code":        {400, "", `{"error":"BAD-REQUEST"}`, "parameter refused", "BAD-REQUEST"},
		"JSON text":           {500, "", `"not_found"`, "", ""},
		"JSON list":           {500, "", `[{"code":"not_found"}]`, "", ""},
		"nothing":             {503, "", "", "empty body", ""},
		"nothing, 401":        {401, "", " \n", "invalid key", ""},
		"broken JSON":         {401, "", `{"message":"` + private, "not JSON", ""},
		"plain text":          {500, "text/plain", private, "not JSON", ""},
		"HTML":                {401, "text/html; charset=utf-8", "  <!DOCTYPE html><h1>" + private, "HTML page", ""},
		"HTML without a type": {502, "text/plain", "<h1>" + private, "HTML page", ""},
		"HTML without a tag":  {502, "text/html", private, "HTML page", ""},
		"redirect":            {302, "text/html", private, "redirect not followed", ""},
		"very long":           {401, "", `{"detail":"` + strings.Repeat(private, maxErrorBody), "invalid key", ""},
	} {
		f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			if test.contentType != "" {
				w.Header().Set("Content-Type", test.contentType)
			}
			answer(test.status, test.body)(w, r)
		})
		_, err := f.WithRetries(0).List(t.Context(), 0, 100)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != test.status || e.Reason != test.reason || e.Code != test.code {
			t.Errorf("%s: got %+v, want %q and %q", name, err, test.reason, test.code)
		}
		where := ""
		if test.status == 404 {
			where = f.URL() + "/traces: "
		}
		want := fmt.Sprintf("list traces: "+where+"opper answered %d %s", test.status, http.StatusText(test.status))
		if test.reason != "" {
			want += ": " + test.reason
		}
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %q, want %q", name, err, want)
		}
	}
}

// Opper's own word for an error is in the debug log, and nothing else that it
// sends, were it in the place of that word.
func TestFailuresAreLogged(t *testing.T) {
	for code, want := range map[string]string{
		"rate_limit_exceeded":     "opper_code=rate_limit_exceeded",
		"op-ABCDEFGHIJKLMNOPQRST": "",
		"op-0123456789ABCDEFGHIJ": "",
		"opsecret":                "",
		"not_found_secret":        "",
		"not found":               "",
		"not_found\\n":            "",
		"_":                       "",
		strings.Repeat("not_", maxErrorCode/4) + "found": "",
	} {
		for _, body := range []string{`{"error":{"code":"%s"}}`, `{"type":"%s"}`, `{"code":"%s"}`, `{"error":"%s"}`} {
			var lines bytes.Buffer
			f := newFixture(t, answer(429, fmt.Sprintf(body, code)), func(o *Options) { o.Logger = log.NewLogfmtLogger(&lines) })
			_, err := f.WithRetries(0).List(t.Context(), 0, 100)
			prefix := strings.TrimSpace("level=debug " + want)
			if got := lines.String(); err == nil || got != prefix+" msg=\"request to Opper failed\" err=\"opper answered 429 Too Many Requests: rate limited\"\n" {
				t.Errorf("%s: got %s", code, got)
			}
		}
	}
}

func FuzzError(f *testing.F) {
	for _, seed := range []string{
		"", " ", "<html>", "x", `{"type":"NotFound","message":"m","detail":[{"msg":"m","input":"i"}]}`, `{"error":{"code":"invalid_api_key"}}`,
		`{"error":"not_found"}`, `{"Error":{"type":"RateLimit-exceeded"},"error":[]}`, `{"code":"op-SECRET"}`, `{"type":"\u006eot"}`, `[[[[`, `"a"`, "\xff", `{"error":null,"code":7,"type":"a.b"}`,
	} {
		for _, status := range []int{302, 401, 404, 429, 500, 999} {
			f.Add(status, []byte(seed), false)
			f.Add(status, []byte(seed), true)
		}
	}
	ours := []string{"", "redirect not followed", "HTML page", "not JSON", "empty body"}
	for _, reason := range reasons {
		ours = append(ours, reason)
	}
	shape := regexp.MustCompile(`^[A-Za-z._-]{0,64}$`)
	f.Fuzz(func(t *testing.T, status int, body []byte, html bool) {
		e := newError(status, body, html)
		if !slices.Contains(ours, e.Reason) || !shape.MatchString(e.Code) || e.Status != status {
			t.Errorf("got %+v", e)
		}
		for word := range strings.FieldsFuncSeq(e.Code, func(r rune) bool { return strings.ContainsRune("._-", r) }) {
			// Words of one case are not taken apart.
			if strings.ToLower(word) == word && !slices.Contains(codeWords, word) {
				t.Errorf("got %q, which is none of our words", word)
			}
		}
	})
}

func TestEndlessErrorIsCut(t *testing.T) {
	f := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		answer(400, strings.Repeat("x", 2*maxErrorBody))(w, r)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
		"in a code": func(w http.ResponseWriter, r *http.Request) {
			answer(400, `{"error":{"code":"`+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+`"}}`)(w, r)
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
			_, errUsage := client.Usage(t.Context(), UsageQuery{})
			_, errBudget := client.Budget(t.Context())
			for _, err := range []error{errList, errGet, errUsage, errBudget} {
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
	type classes struct{ unreadable, refused, outOfRange, notFound, permanent bool }
	for _, test := range []struct {
		err  error
		want classes
	}{
		{&Error{Status: 302}, classes{permanent: true}},
		{&Error{Status: 400}, classes{outOfRange: true, permanent: true}},
		{&Error{Status: 401}, classes{refused: true}},
		{&Error{Status: 403}, classes{refused: true, permanent: true}},
		{&Error{Status: 404}, classes{outOfRange: true, notFound: true, permanent: true}},
		{&Error{Status: 416}, classes{outOfRange: true, permanent: true}},
		{&Error{Status: 422}, classes{outOfRange: true, permanent: true}},
		{&Error{Status: 408}, classes{}},
		{&Error{Status: 429}, classes{}},
		{&Error{Status: 500}, classes{unreadable: true}},
		{&Error{Status: 503}, classes{unreadable: true}},
		{ErrTooLarge, classes{unreadable: true}},
		{ErrTooManyRows, classes{}},
		{ErrNoGroup, classes{permanent: true}},
		{errNoBudget, classes{permanent: true}},
		{ErrPostponed, classes{}},
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
		got := classes{Unreadable(err), Refused(err), OutOfRange(err), errors.Is(err, ErrNotFound), Permanent(err)}
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
	if err == nil || err.Error() != "list traces: an HTML page instead of JSON" || !HTML(err) {
		t.Errorf("got %v", err)
	}
	for body, want := range map[string]bool{"<html></html>": true, `{"message":"<html>"}`: false, "": false} {
		_, err := newFixture(t, answer(502, body)).WithRetries(0).List(t.Context(), 0, 100)
		if err == nil || HTML(err) != want {
			t.Errorf("%q: got %v", body, err)
		}
	}
}
