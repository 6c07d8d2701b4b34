package syncer

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
)

// Source is where pages come from: an *opper.Client.
type Source interface {
	// List reads up to limit rows from offset on. The page becomes the caller's.
	List(ctx context.Context, offset, limit int) (opper.Page, error)
	// Get reads one trace. The error is opper.ErrNotFound if there is none.
	Get(ctx context.Context, id string) (opper.Trace, error)
}

// maxLimit is the maximum number of rows that one request asks for.
const maxLimit = opper.PageSize

// page is what was read from offset on.
type page struct {
	offset    int
	asked     int // rows asked for
	failed    int // a page of so many could not be read, 0 if none failed
	rows      []ledger.Row
	total     int // -1 if Opper did not say
	when      ledger.When
	isSkipped bool // not read: the row is known to be unreadable
}

// reader reads pages of one sync, smaller ones where a page can't be read.
type reader struct {
	src  Source
	now  func() time.Time
	end  int // where the list is believed to end
	any  int // a place in it, another one in each sync
	good int // where a row was last read, -1 at first
	bad  int // failures since
}

func (s *Syncer) newReader(src Source) *reader {
	listed, refused := s.ledger.Listed(), s.known.Refused
	r := &reader{src: src, now: s.cfg.Now, end: max(listed, s.known.Total), good: -1}
	if refused > 0 {
		listed, r.end = min(listed, refused), min(r.end, refused-1)
	}
	s.readers++
	spread := uint64(s.readers * 2654435769) // 2^32 by the golden ratio: far from all before
	r.any = int(spread * uint64(listed) >> 32)
	return r
}

// provenFor is how many failures after a success are still blamed on the rows that were
// asked for, and not on the service.
const provenFor = 8

func (r *reader) list(ctx context.Context, offset, limit int) (page, error) {
	p := page{offset: offset, asked: limit, when: ledger.When{Asked: r.now()}}
	got, err := r.src.List(ctx, offset, limit)
	if err != nil {
		return p, err
	}
	p.when.Read = r.now()
	p.total = got.Total
	p.rows = newRows(len(got.Traces))
	for i := range got.Traces {
		setRow(&p.rows[i], &got.Traces[i])
	}
	return p, nil
}

var pages = sync.Pool{New: func() any { return new([maxLimit]ledger.Row) }}

// newRows returns n rows that are to be set.
func newRows(n int) []ledger.Row {
	if n > maxLimit {
		return make([]ledger.Row, n)
	}
	return pages.Get().(*[maxLimit]ledger.Row)[:n] // the pool holds nothing else
}

// release returns the memory of a run's rows to the pool.
func release(run ledger.Run) {
	if cap(run.Rows) == maxLimit {
		pages.Put((*[maxLimit]ledger.Row)(run.Rows[:maxLimit]))
	}
}

// read reads up to limit rows from offset on: fewer if Opper can't give that
// many at once. As many of them as known are believed to be readable. A row that
// Opper can't give at all comes back as unreadable. An error is
// one of the service, and says nothing about the rows.
func (r *reader) read(ctx context.Context, offset, limit, known int) (page, error) {
	failed := 0
	for size := limit; ; size = smaller(size, known) {
		p, err := r.list(ctx, offset, size)
		if err == nil {
			r.good, r.bad = offset, 0
			p.failed = failed
			return p, nil
		}
		if !opper.Unreadable(err) {
			return p, fmt.Errorf("rows from %d: %w", offset, err)
		}
		r.bad++
		if !r.well(ctx, offset, offset+limit) {
			return p, fmt.Errorf("rows from %d: %w", offset, err)
		}
		failed = size
		if size == 1 {
			p.when.Read, p.total = r.now(), -1
			p.rows = []ledger.Row{{Kind: ledger.Unreadable}}
			return p, nil
		}
	}
}

// smaller returns how many rows to ask for after a page of more could not be read.
func smaller(size, known int) int {
	if size > known {
		return known + (size-known)/2
	}
	return size / 2
}

// well reports whether the service answers other requests, so that the rows that were
// asked for caused the failure.
func (r *reader) well(ctx context.Context, offset, beyond int) bool {
	if r.good >= 0 && r.bad <= provenFor {
		return true
	}
	places := []int{beyond, r.end, r.any} // nothing is unreadable where nothing is listed
	if r.good >= 0 {
		places[0] = r.good
	}
	for _, at := range places {
		_, err := r.list(ctx, at, 1)
		// A refused offset says nothing about the service, but one closer may.
		for step := (beyond - offset) / 2; at == beyond && step > 0 && opper.OutOfRange(err); step /= 2 {
			beyond = offset + step
			at = beyond
			_, err = r.list(ctx, at, 1)
		}
		if err == nil {
			r.good, r.bad = at, 0
			return true
		}
	}
	return false
}

// maxRef is the maximum number of bytes of an identifier that is kept, unless it is a
// UUID: a million traces may run at once.
const maxRef = 64

func setRow(r *ledger.Row, t *opper.Trace) {
	*r = ledger.Row{
		Name: aggregate.BoundName(t.Name), Status: aggregate.BoundStatus(t.Status), HasStatus: t.HasStatus,
		Start: t.Start.Truncate(time.Microsecond), End: t.End.Truncate(time.Microsecond),
		Duration: t.Duration, HasDuration: t.HasDuration,
		Tokens: t.Tokens, HasTokens: t.HasTokens,
	}
	if t.ID == "" {
		r.Kind = ledger.NoID
		r.ID = ledger.KeyWithoutID(t.Name, t.Start)
		return
	}
	r.ID = ledger.KeyOf(t.ID)
	switch {
	case r.ID.Spells(t.ID):
	case len(t.ID) > maxRef:
		r.Ref = ledger.NoRef
	default:
		r.Ref = strings.Clone(t.ID) // it must not keep the identifiers of a whole page
	}
}
