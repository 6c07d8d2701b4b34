package check

import (
	"context"
	"errors"
	"sync"
	"time"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

const (
	// maxTime bounds the check of one project.
	maxTime = 45 * time.Second
	// probeRows are read first, to learn how large rows are.
	probeRows = 10
	maxPages  = 8
	// maxBytes is what the sample may take, about: a row can be megabytes.
	maxBytes = 32 << 20
	// maxRetries is for all requests of the sample.
	maxRetries = 3
)

// sample is what was read of a list.
type sample struct {
	pages    []page // by offset, the one at the start first
	total    int    // meta.total_count; -1 if missing
	complete bool   // it is the whole list
	planned  int    // pages, as far as that is known

	err     error // that ended the reading
	refused int   // the offset that Opper refuses; 0 if it does not
	took    time.Duration
	slowest time.Duration // for a page of opper.PageSize
	rows    int           // that were received

	mu       sync.Mutex // for what the client counts
	requests int        // retries included
	limited  int        // answered with 429
	received int64      // bytes of bodies
}

// tooMany is the status of a request that the rate limit refuses.
const tooMany = "429"

// page is a stretch of consecutive rows.
type page struct {
	offset int
	traces []opper.Trace
}

// read reads a sample: the start and the end of the list, and pages between them.
func read(ctx context.Context, cfg config.Project, now func() time.Time) (*sample, error) {
	s := &sample{total: -1, planned: 1}
	opts := cfg.Opper
	opts.Observe = func(code string, _ time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests++
		if code == tooMany {
			s.limited++
		}
	}
	opts.Received = func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.received += int64(n)
	}
	client, err := opper.New(opts)
	if err != nil {
		return nil, err
	}
	client = client.WithRetries(maxRetries)
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()

	began := now()
	list := func(offset, limit int) (rows int) {
		if now().Sub(began) >= maxTime {
			s.err = context.DeadlineExceeded
			return 0
		}
		asked := now()
		var got opper.Page
		got, s.err = client.List(ctx, offset, limit)
		took := now().Sub(asked)
		s.took = now().Sub(began)
		if s.err != nil {
			s.slowest = max(s.slowest, took)
			return 0
		}
		s.slowest = max(s.slowest, took*opper.PageSize/time.Duration(limit))
		s.total = got.Total
		s.rows += len(got.Traces)
		s.pages = append(s.pages, page{offset, got.Traces})
		return len(got.Traces)
	}

	rows := list(0, probeRows)
	if s.complete = s.err == nil && rows < probeRows; s.err != nil || s.complete {
		return s, nil
	}
	probe := s.pages
	s.pages, s.slowest = nil, 0 // so few rows say little about a page
	limit := min(max(int(maxBytes/maxPages/(s.received/int64(rows)+1)), 1), opper.PageSize)
	offsets := spread(s.total, limit)
	s.planned = len(offsets)
	for i, offset := range offsets {
		rows := list(offset, limit)
		if opper.OutOfRange(s.err) && offset > 0 {
			s.refused, s.err = offset, nil
			break
		}
		if s.err != nil {
			break
		}
		if s.complete = rows < limit && offset == i*limit || offset == i*limit && offset+rows == s.total; s.complete {
			break
		}
	}
	if len(s.pages) == 0 {
		s.pages = probe
	}
	return s, nil
}

// spread returns the offsets of pages that hold the whole list if that is short, or
// else its start, its end, and some between.
func spread(total, limit int) []int {
	var offsets []int
	if total < 0 || total <= maxPages*limit {
		for offset := 0; len(offsets) < maxPages && (total < 0 || offset < max(total, 1)); offset += limit {
			offsets = append(offsets, offset)
		}
		return offsets
	}
	for i := range maxPages {
		offsets = append(offsets, (total-limit)*i/(maxPages-1))
	}
	return offsets
}

// isStopped reports whether the time was up, or the check was interrupted.
func (s *sample) isStopped() bool {
	return errors.Is(s.err, context.DeadlineExceeded) || errors.Is(s.err, context.Canceled)
}

// traces returns all that were read, each once: rows move while pages are read.
func (s *sample) traces() []*opper.Trace {
	seen := map[string]bool{}
	var out []*opper.Trace
	for _, p := range s.pages {
		for i := range p.traces {
			t := &p.traces[i]
			if t.ID != "" && seen[t.ID] {
				continue
			}
			seen[t.ID] = true
			out = append(out, t)
		}
	}
	return out
}
