package scrape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

// Clients that do not read what they are sent occupy no slots, little memory,
// and not for long.
func TestClientsThatDoNotReadBlockNoOther(t *testing.T) {
	t.Parallel()
	const size = 16 << 20 // more than the buffers of a connection
	body := bytes.Repeat([]byte("x"), size)
	big := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	for what, c := range map[string]struct {
		timeout  time.Duration
		maxBytes int
		slots    int
		cut      int // of 5 clients that do not read
	}{
		"slots":   {time.Hour, 1 << 40, 1, 0},
		"timeout": {time.Millisecond, 1 << 40, 5, 5},
		"memory":  {time.Hour, 3 * size, 1, 3}, // after another response, which is read
	} {
		t.Run(what, func(t *testing.T) {
			logged := new(promtest.Output)
			address := listen(t, NewResponses(log.NewLogfmtLogger(logged), c.timeout, c.maxBytes).Buffer(make(slots, c.slots).limit(big, refuse("busy", http.StatusServiceUnavailable))))
			var stuck []net.Conn
			for range 5 {
				conn := exportertest.Dial(t, address, exportertest.Request("GET", "/"))
				if c.timeout == time.Hour {
					if got := exportertest.Status(t, conn); got != "HTTP/1.1 200 OK" {
						t.Errorf("a slot is occupied: %s", got)
					}
				}
				stuck = append(stuck, conn)
			}
			if c.timeout == time.Hour {
				resp, err := http.Get("http://" + address)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
					t.Errorf("read %d bytes, %v", n, err)
				}
			}
			promtest.Eventually(t, func() error {
				if n := len(logged.Lines("level=debug", `msg="scrape aborted"`)); n < c.cut {
					return fmt.Errorf("%d clients are dropped, want %d", n, c.cut)
				}
				return nil
			})
			for _, conn := range stuck[:c.cut] {
				awaitClosed(t, "dropped", conn)
			}
			if n := len(logged.Lines()); n != c.cut {
				t.Errorf("%d lines are logged: %s", n, logged)
			}
		})
	}
}

// A scraper that goes away while it is sent the response is no error.
func TestAbortedScrapeIsNoError(t *testing.T) {
	t.Parallel()
	logged := new(promtest.Output)
	body := bytes.Repeat([]byte("x"), 16<<20)
	h := NewResponses(log.NewLogfmtLogger(logged), time.Hour, 1<<40).Buffer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	conn := exportertest.Dial(t, listen(t, h), exportertest.Request("GET", "/"))
	if got := exportertest.Status(t, conn); got != "HTTP/1.1 200 OK" {
		t.Error(got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	promtest.Eventually(t, func() error {
		if len(logged.Lines()) == 0 {
			return errors.New("nothing is logged")
		}
		return nil
	})
	if n := len(logged.Lines("level=debug", "scrape aborted")); n != 1 || n != len(logged.Lines()) {
		t.Errorf("logged: %s", logged)
	}
}
