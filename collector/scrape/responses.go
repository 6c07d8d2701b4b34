package scrape

import (
	"bytes"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Responses buffers what handlers write. A client gets a complete response or
// an error, and a slow client costs neither a slot among the requests that are
// being answered nor more than a bounded amount of memory.
type Responses struct {
	logger   log.Logger
	timeout  time.Duration // for a client to take a response
	maxBytes int           // of all responses that clients have not taken yet

	mu      sync.Mutex
	sending []*sending // oldest first, without those that were cut off
	bytes   int        // of sending
}

// sending is a response on its way to a client.
type sending struct {
	control *http.ResponseController
	size    int
}

// NewResponses returns Responses that drop a client which takes longer than
// timeout for a response. When more than maxBytes are on their way, the oldest
// responses are cut off: a scraper takes milliseconds, so these are of clients
// that do not read.
func NewResponses(logger log.Logger, timeout time.Duration, maxBytes int) *Responses {
	return &Responses{logger: logger, timeout: timeout, maxBytes: maxBytes}
}

// Buffer returns a handler that sends what next writes once next has returned.
// If next panics with an error, the response is a 500.
func (rs *Responses) Buffer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := rs.send(w, control, serve(next, r)); err != nil {
			level.Debug(rs.logger).Log("msg", "scrape aborted", "err", err)
		}
	})
}

func (rs *Responses) send(w http.ResponseWriter, control *http.ResponseController, b *buffer) error {
	defer rs.begin(&sending{control: control, size: b.body.Cap()})()
	maps.Copy(w.Header(), b.header)
	w.Header().Set("Content-Length", strconv.Itoa(b.body.Len()))
	w.WriteHeader(b.status)
	if _, err := w.Write(b.body.Bytes()); err != nil {
		return err
	}
	return control.Flush()
}

// begin limits the time for a response, and cuts off the oldest ones if there
// are too many bytes. The caller calls end when the response is sent.
func (rs *Responses) begin(s *sending) (end func()) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	s.setDeadline(time.Now().Add(rs.timeout))
	rs.sending = append(rs.sending, s)
	rs.bytes += s.size
	for rs.bytes > rs.maxBytes && len(rs.sending) > 1 {
		oldest := rs.sending[0]
		oldest.setDeadline(time.Unix(1, 0))
		rs.remove(oldest)
	}
	return func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		rs.remove(s)
	}
}

func (rs *Responses) remove(s *sending) {
	if i := slices.Index(rs.sending, s); i >= 0 {
		rs.sending = slices.Delete(rs.sending, i, i+1)
		rs.bytes -= s.size
	}
}

// setDeadline ignores errors: a writer without deadlines does not block.
func (s *sending) setDeadline(t time.Time) { _ = s.control.SetWriteDeadline(t) }

// buffer is a complete response.
type buffer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// serve returns the response of a handler.
func serve(h http.Handler, r *http.Request) (b *buffer) {
	b = &buffer{header: http.Header{}, status: http.StatusOK}
	defer func() {
		switch failure := recover().(type) {
		case nil:
		case runtime.Error:
			panic(failure)
		case error:
			b = &buffer{header: http.Header{}}
			http.Error(b, "An error has occurred while serving metrics:\n\n"+failure.Error(), http.StatusInternalServerError)
		default:
			panic(failure)
		}
	}()
	h.ServeHTTP(b, r)
	return b
}

// Header implements http.ResponseWriter.
func (b *buffer) Header() http.Header { return b.header }

// WriteHeader implements http.ResponseWriter.
func (b *buffer) WriteHeader(status int) { b.status = status }

// Write implements http.ResponseWriter.
func (b *buffer) Write(p []byte) (int, error) { return b.body.Write(p) }
