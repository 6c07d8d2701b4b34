package syncer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// That Opper refuses an offset does not make it look unavailable.
func TestUnreadableStartBeforeRefusedOffset(t *testing.T) {
	for _, deepest := range []int{1, 20, 57} {
		b := newBench(t, oppertest.Config{MaxOffset: deepest})
		rows := b.fill(3)
		b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[0].ID, Times: -1})
		b.mustSync()
		if got := len(b.counted); got != 2 {
			t.Errorf("offsets up to %d: %d counted", deepest, got)
		}
	}
}

// An unreadable row may move to where the last page should be shared, again and
// again, and what follows must not be lost.
func TestUnreadableRowMovesUp(t *testing.T) {
	const times = 2
	b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
	rows := b.fill(300)
	moved, at, deleted := 0, 149, 0
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[at].ID, Times: -1})
	b.opper.OnRequest(func(r oppertest.Request) {
		if up := at - r.Offset; moved < times && up > 0 && up < r.Limit/2 && up < 6 {
			for _, row := range rows[deleted : deleted+up] {
				b.opper.Delete(row.ID)
			}
			moved, at, deleted = moved+1, at-up, deleted+up
		}
	})
	b.mustSync()
	if got := b.ledger.Listed(); moved != times || got != 300-deleted {
		t.Errorf("moved up %d times, %d are deleted, %d are listed", moved, deleted, got)
	}
}

// longPages is a Source that gives more rows than asked for.
type longPages struct {
	Source
	n *int
}

// List implements Source.
func (s longPages) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	*s.n++
	page, err := s.Source.List(ctx, offset, min(limit+20+*s.n%2*20, maxLimit))
	if err != nil {
		return page, fmt.Errorf("a long page: %w", err)
	}
	return page, nil
}

// A row that can't be read on a page that is too long does not make a sync go
// back for ever.
func TestUnreadableRowOnLongPages(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	rows := b.fill(300)
	b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[150].ID, Times: -1})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	requests := 0
	b.opper.OnRequest(func(oppertest.Request) {
		if requests > 1000 {
			stop()
		}
	})
	_, _ = syncAll(ctx, b.syncer, longPages{b.client.WithRetries(0), &requests}) // may fail
	if requests > 1000 {
		t.Errorf("more than %d requests in one sync", requests)
	}
}

// replacedStart is a Source of another upstream up to some offset.
type replacedStart struct {
	Source
	other rows
	below int
}

// List implements Source.
func (s replacedStart) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if offset < s.below {
		return s.other.List(ctx, offset, limit)
	}
	page, err := s.Source.List(ctx, offset, limit)
	if err != nil {
		return page, fmt.Errorf("ours: %w", err)
	}
	return page, nil
}

// limited is a Source that gives no single traces for now.
type limited struct{ Source }

// Get implements Source.
func (limited) Get(context.Context, string) (opper.Trace, error) {
	return opper.Trace{}, &opper.Error{Status: http.StatusTooManyRequests}
}

// troubled is a Source that does not say once whether it has a trace of another upstream.
type troubled struct {
	Source
	over *bool
}

// Get implements Source.
func (s troubled) Get(ctx context.Context, id string) (opper.Trace, error) {
	if !*s.over && len(id) < 3 {
		*s.over = true
		return opper.Trace{}, &opper.Error{Status: http.StatusInternalServerError}
	}
	return s.Source.Get(ctx, id)
}

// Pages of one row share none, so the last of them does not tie the others to
// our list, also if Opper can't be asked about them.
func TestForeignRowsReadOneByOne(t *testing.T) {
	for name, source := range map[string]func(Source) Source{
		"well":     func(src Source) Source { return src },
		"limited":  func(src Source) Source { return limited{src} },
		"troubled": func(src Source) Source { return troubled{src, new(bool)} },
	} {
		refuseForeignRows(t, name, 5, 10, source)
		refuseForeignRows(t, name, 1, 1, source)
	}
}

// refuseForeignRows lists foreign rows at the first offsets of a list that has 10
// rows that can't be read.
func refuseForeignRows(t *testing.T, name string, first, foreign int, source func(Source) Source) {
	t.Helper()
	b := newBench(t, oppertest.Config{})
	for _, row := range b.fill(60)[first : first+10] {
		b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row.ID, Times: -1})
	}
	b.mustSync()
	counted, listed := len(b.counted), b.ledger.Listed()
	b.step(time.Second)
	src := source(b.client.WithRetries(0))
	ev, err := syncAll(context.Background(), b.syncer, replacedStart{src, rows{n: 60}, foreign})
	b.take(ev)
	if err == nil || name != "limited" && !errors.Is(err, errForeign) {
		t.Errorf("%s, %d: error %v", name, first, err)
	}
	if len(ev.FirstSeen) > 0 || len(b.counted) != counted || b.ledger.Listed() != listed {
		t.Errorf("%s, %d: %d foreign rows are taken in, %d are counted", name, first, len(ev.FirstSeen), len(b.counted)-counted)
	}
}

// Traces that settle where Opper refuses to list are asked for by id.
func TestSettledBeyondRefusedOffset(t *testing.T) {
	b := newBench(t, oppertest.Config{MaxOffset: 100})
	b.fill(50)
	b.mustSync()
	b.step(time.Second)
	b.arrive("settling", 20, time.Millisecond)
	b.step(time.Second)
	b.mustSync()
	b.arrive("new", 300, time.Millisecond)
	b.step(settle)
	b.opper.ResetRequests()
	b.mustSync()
	if got := len(b.counted); got != 70 {
		t.Errorf("%d counted, want the 50 of the initial sync and the 20 that have settled\n%s", got, b.log.String())
	}
	if n := b.opper.RequestCount(); n > 40 {
		t.Errorf("%d requests", n)
	}
}

// That two rows can't be read, at which Opper is asked whether it is well, does
// not make it look unavailable.
func TestUnreadableRowsAtBothProbes(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	rows := b.fill(150)
	b.mustSync()
	b.quiet()
	added := endedTrace("new", b.now())
	b.opper.Add(added)
	for _, id := range []string{added.ID, rows[maxLimit-1].ID} {
		b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: id, Times: -1})
	}
	b.step(time.Second)
	b.mustSync()
}

// newestRow is a Source that gives one row, the newest, for each offset.
type newestRow struct {
	Source
	b *bench
	n int
}

// List implements Source.
func (s *newestRow) List(ctx context.Context, _, limit int) (opper.Page, error) {
	if s.n++; s.n%20 == 0 {
		s.b.opper.Add(endedTrace(fmt.Sprint("new ", s.n), s.b.now()))
	}
	if s.n > 10*maxLimit {
		return opper.Page{}, context.Canceled // it would go on for ever
	}
	if limit > 1 {
		return opper.Page{}, opper.ErrTooLarge
	}
	return s.Source.List(ctx, 0, 1)
}

// An upstream that ignores offset ends a sync with an error, also if it gives
// only single rows and others arrive meanwhile.
func TestOffsetIgnoredRowByRow(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(3)
	_, err := syncAll(t.Context(), b.syncer, &newestRow{Source: b.client.WithRetries(0), b: b})
	if !errors.Is(err, errRepeated) {
		t.Errorf("error %v", err)
	}
}

// Where nothing but the start of the list can be read, a sync ends, and takes no row
// for unreadable that is not there.
func TestUnreadableRowsWithoutEnd(t *testing.T) {
	for order, cfg := range orders {
		t.Run(order, func(t *testing.T) {
			b := newBench(t, cfg)
			b.arrive("first", 400, time.Second)
			b.mustSync()
			b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.Errors(http.StatusServiceUnavailable)["v2 string"], Match: func(r oppertest.Request) bool {
				return r.ID == "" && r.Offset > 0
			}})
			b.step(time.Minute)
			before := b.opper.RequestCount()
			if err := b.sync(); !errors.Is(err, errEndless) {
				t.Errorf("error %v", err)
			}
			if n := b.opper.RequestCount() - before; n > 10*maxLimit {
				t.Errorf("%d requests", n)
			}
			b.opper.Clear()
			b.arrive("later", 5, time.Second)
			for range 5 {
				b.step(10 * time.Minute)
				b.mustSync()
			}
			b.check()
		})
	}
}

// expiring is a Source of a list from whose start some rows expire with each trace
// that is asked for. As many new ones are added to its end.
type expiring struct {
	Source
	b        *bench
	rows     int
	requests *int
}

// List implements Source.
func (s expiring) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if *s.requests++; *s.requests > 10*maxLimit {
		return opper.Page{}, context.Canceled // it would go on for ever
	}
	page, err := s.Source.List(ctx, offset, limit)
	if err != nil {
		return page, fmt.Errorf("expiring: %w", err)
	}
	return page, nil
}

// Get implements Source.
func (s expiring) Get(ctx context.Context, id string) (opper.Trace, error) {
	*s.requests++
	for _, row := range s.b.opper.Snapshot()[:s.rows] {
		s.b.opper.Delete(row.ID)
	}
	s.b.arrive(fmt.Sprint("during ", *s.requests), s.rows, time.Millisecond)
	trace, err := s.Source.Get(ctx, id)
	if err != nil {
		return trace, fmt.Errorf("expiring: %w", err)
	}
	return trace, nil
}

// A sync ends also where all known rows have expired, one of them could not be read,
// and the list moves whenever traces are asked for: with success if whole pages keep
// up with it.
func TestAllExpiredBehindUnreadableRow(t *testing.T) {
	for rows, want := range map[int]error{1: nil, 150: errMoving} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			b := newBench(t, oppertest.Config{OldestFirst: true, Retention: time.Hour})
			b.arrive("old", 60, time.Second)
			b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: b.opper.Snapshot()[0].ID, Times: -1})
			b.mustSync()
			b.step(5 * time.Hour)
			b.arrive("new", 500, time.Second)
			requests := 0
			_, err := syncAll(t.Context(), b.syncer, expiring{b.client.WithRetries(0), b, rows, &requests})
			if !errors.Is(err, want) || requests > maxLimit {
				t.Errorf("%d requests, error %v, want %v", requests, err, want)
			}
		})
	}
}

// What follows a row that was read alone is tied to it, too: the row that could not be
// read behind it may be delisted, with others before it.
func TestUnreadableRowIsDeleted(t *testing.T) {
	for at := 101; at < 160; at++ {
		b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
		rows := b.fill(300)
		deleted := 0
		b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[at].ID, Times: -1})
		b.opper.OnRequest(func(r oppertest.Request) {
			if r.Offset == at && deleted == 0 {
				deleted = 2
				b.opper.Delete(rows[0].ID)
				b.opper.Delete(rows[at].ID)
			}
		})
		b.mustSync()
		if got := b.ledger.Listed(); got != 300-deleted || deleted == 0 {
			t.Errorf("row %d: %d are deleted, %d are listed", at, deleted, got)
		}
	}
}

// New rows that move an unreadable one down while small pages come closer to it do not
// look as if offset was ignored, when whole pages follow from the start.
func TestSmallPagesRepeatRows(t *testing.T) {
	row := ledger.Row{ID: ledger.KeyOf("first")}
	c := &cursor{ledger: ledger.New(ledger.Config{}), total: -1}
	c.last, c.border.ids = lastPage{offset: 500, end: 502, ids: []ledger.ID{row.ID}}, []ledger.ID{row.ID}
	for range maxRepeats {
		if err := c.progress(page{offset: 501, asked: 2, rows: []ledger.Row{row}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.progress(page{offset: 0, asked: maxLimit, rows: []ledger.Row{row}}); err != nil {
		t.Error(err)
	}
	for range maxRepeats {
		if err := c.progress(page{offset: 600, asked: maxLimit, rows: []ledger.Row{row}}); err != nil {
			return
		}
	}
	t.Error("the same whole page again and again is no error")
}

// Where rows before an unreadable one are deleted, a new one may stand behind it, where
// the unreadable one is believed to be.
func TestNewRowBehindUnreadableRowThatMovedUp(t *testing.T) {
	for unreadable := 1; unreadable < 5; unreadable++ {
		for deleted := range unreadable {
			b := newBench(t, oppertest.Config{OldestFirst: true})
			rows := b.fill(30)
			b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: rows[unreadable].ID, Times: -1})
			b.mustSync()
			b.quiet()
			for i, row := range rows[1:] {
				if at := i + 1; at <= deleted || at > unreadable {
					b.opper.Delete(row.ID)
				}
			}
			b.arrive("new", 8, time.Second)
			b.step(time.Second)
			b.mustSync()
			missed := 0
			for _, row := range b.opper.Snapshot() {
				if row.ID != rows[unreadable].ID && !b.ledger.HasSeen(ledger.KeyOf(row.ID)) {
					missed++
				}
			}
			if missed > 0 {
				t.Errorf("row %d is unreadable, %d before it are deleted: one sync missed %d of 8 new traces", unreadable, deleted, missed)
			}
		}
	}
}
