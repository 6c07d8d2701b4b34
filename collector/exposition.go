package collector

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"

	"github.com/klauspost/compress/gzhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
)

// maxFormats is in how many formats a snapshot is kept. A server asks for one,
// and a client that asks for all that there are does not fill the memory.
const maxFormats = 4

// exposition serves what a project has published, and behind it its health and
// what others gather. What is published is by far the most and changes once a
// sync at most, so it is encoded when it is first asked for in a format, and not
// by each scrape.
type exposition struct {
	project *Project
	opts    promhttp.HandlerOpts
	rest    http.Handler // of what is not published
	whole   http.Handler

	mu      sync.Mutex
	of      *snapshot
	encoded map[expfmt.Format]func() ([]byte, error) // of it
}

// Handler serves the metrics of a project and of others, in all formats of
// promhttp, and compressed by gzip or zstd for who accepts that. What opts says
// of formats, compression and limits is not heeded.
func Handler(p *Project, others prometheus.Gatherer, opts promhttp.HandlerOpts) (http.Handler, error) {
	opts.AcceptedFormats = expfmt.DefaultOpenMetricsAcceptedFormats()
	opts.DisableCompression, opts.MaxRequestsInFlight, opts.Timeout = true, 0, 0
	health, all := prometheus.NewRegistry(), prometheus.NewRegistry()
	health.MustRegister(p.health)
	all.MustRegister(p)
	e := &exposition{
		project: p, opts: opts,
		rest:  promhttp.HandlerFor(prometheus.Gatherers{health, others}, opts),
		whole: promhttp.HandlerFor(prometheus.Gatherers{all, others}, opts),
	}
	compressed, err := gzhttp.NewWrapper(gzhttp.EnableZstd(true))
	if err != nil {
		return nil, fmt.Errorf("compression of metrics: %w", err)
	}
	return compressed(e), nil
}

// ServeHTTP implements http.Handler.
func (e *exposition) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("name[]") {
		body, err := e.encode(expfmt.NegotiateAccept(r.Header, e.opts.AcceptedFormats...))
		if err == nil {
			e.rest.ServeHTTP(&behind{ResponseWriter: w, body: body}, r)
			return
		}
		// It meets the same error, and logs, counts and answers it.
	}
	e.whole.ServeHTTP(w, r)
}

// encode returns what is published in a format, without the end that some
// formats have.
func (e *exposition) encode(format expfmt.Format) ([]byte, error) {
	e.mu.Lock()
	shot := e.project.published.Load()
	if e.of != shot {
		e.of, e.encoded = shot, map[expfmt.Format]func() ([]byte, error){}
	}
	once := e.encoded[format]
	if once == nil {
		if len(e.encoded) == maxFormats {
			clear(e.encoded)
		}
		once = sync.OnceValues(func() ([]byte, error) { return shot.encode(format, e.opts.EnableOpenMetricsTextCreatedSamples) })
		e.encoded[format] = once
	}
	e.mu.Unlock()
	return once()
}

func (s *snapshot) encode(format expfmt.Format, created bool) ([]byte, error) {
	families, err := s.Gather()
	if err != nil {
		return nil, err
	}
	var options []expfmt.EncoderOption
	if created {
		options = append(options, expfmt.WithCreatedLines())
	}
	var out bytes.Buffer
	enc := expfmt.NewEncoder(&out, format, options...)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return nil, fmt.Errorf("metric family %s: %w", f.GetName(), err)
		}
	}
	return out.Bytes(), nil
}

// behind lets what is written follow a body, unless it is an error.
type behind struct {
	http.ResponseWriter
	body []byte
}

// WriteHeader implements http.ResponseWriter.
func (b *behind) WriteHeader(status int) {
	if status != http.StatusOK {
		b.body = nil
	}
	b.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (b *behind) Write(p []byte) (int, error) {
	body := b.body
	b.body = nil
	if len(body) > 0 {
		if _, err := b.ResponseWriter.Write(body); err != nil {
			return 0, err
		}
	}
	return b.ResponseWriter.Write(p)
}
