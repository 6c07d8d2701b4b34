package scrape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

func TestCopyIsRefused(t *testing.T) {
	t.Parallel()
	openCopy := func() (*os.File, error) {
		return nil, errors.New("data/opper_exporter.db was removed while it was in use")
	}
	for name, c := range map[string]struct {
		enabled   bool
		copyState CopyState
		origin    string
		status    int
		text      string
	}{
		"without the flag":    {false, openCopy, "", 403, "The lifecycle API is not enabled: it needs --web.enable-lifecycle.\n"},
		"without persistence": {true, nil, "", 404, "There is no state: --storage.path is empty.\n"},
		"lost state":          {true, openCopy, "", 500, "data/opper_exporter.db was removed while it was in use\n"},
		"by another site":     {true, openCopy, "https://elsewhere.example", 403, "cross-origin request detected"},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, copyPath, http.NoBody)
			if c.origin != "" {
				request.Header.Set("Origin", c.origin)
			}
			recorder := httptest.NewRecorder()
			secure(lifecycle(Config{EnableLifecycle: c.enabled}, copyHandler(c.copyState, time.Hour, log.NewNopLogger()))).ServeHTTP(recorder, request)
			if recorder.Code != c.status || !strings.HasPrefix(recorder.Body.String(), c.text) {
				t.Errorf("%d, %q", recorder.Code, recorder.Body)
			}
		})
	}
}

// A client that does not read what it is sent holds up other copies, for a while
// and nothing else.
func TestOneCopyAtATime(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("x"), 16<<20) // more than the buffers of a connection
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	logged := new(promtest.Output)
	openCopy := func() (*os.File, error) { return os.Open(path) }
	serve := func(timeout time.Duration) (address string) {
		return listen(t, secure(copyHandler(openCopy, timeout, log.NewLogfmtLogger(logged))))
	}
	post := func(address string) (status int, body []byte) {
		t.Helper()
		resp, err := http.Post("http://"+address+copyPath, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK && (resp.Header.Get("Content-Type") != "application/octet-stream" || resp.Header.Get("Content-Encoding") != "" ||
			resp.ContentLength != int64(len(content)) || !strings.Contains(resp.Header.Get("Content-Disposition"), "opper_exporter.db")) {
			t.Errorf("headers %v", resp.Header)
		}
		return resp.StatusCode, body
	}

	patient := serve(time.Hour)
	if status, body := post(patient); status != http.StatusOK || !bytes.Equal(body, content) {
		t.Errorf("%d, %d bytes", status, len(body))
	}
	stuck := exportertest.Dial(t, patient, exportertest.Request("POST", copyPath))
	if got := exportertest.Status(t, stuck); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	if status, body := post(patient); status != http.StatusConflict {
		t.Errorf("a second copy: %d, %.100s", status, body)
	}
	if err := stuck.Close(); err != nil {
		t.Error(err)
	}
	promtest.Eventually(t, func() error {
		if status, _ := post(patient); status != http.StatusOK {
			return fmt.Errorf("after the client has gone: %d", status)
		}
		return nil
	})

	stuck = exportertest.Dial(t, serve(time.Millisecond), exportertest.Request("POST", copyPath))
	promtest.Eventually(t, func() error {
		if len(logged.Lines(`msg="state copy aborted"`, "timeout")) == 0 {
			return errors.New("a client that does not read is not dropped")
		}
		return nil
	})
	awaitClosed(t, "dropped", stuck)
}
