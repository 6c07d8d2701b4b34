package syncer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// Two pages of the initial sync may share nothing but a row without an id and a start,
// which ties no list: Opper is asked for one of the others.
func TestInitialSyncPassesRowWithoutID(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("older", 50, time.Second)
	b.opper.Add(oppertest.Trace{End: new(b.now())})
	b.arrive("newer", maxLimit-1, time.Second)
	b.mustSync()
	b.quiet()
	if got := b.ledger.Listed(); got != 50+maxLimit {
		t.Errorf("%d are listed", got)
	}
	b.check()
}

// burst is a source with small pages. Many rows arrive before some of its pages.
type burst struct {
	Source
	b    *bench
	left int // how often they still arrive
}

// List implements Source.
func (s *burst) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if offset > 2*maxOverlap && s.left > 0 {
		s.left--
		s.b.arrive(fmt.Sprint("burst ", s.left), 8*maxLimit, time.Millisecond)
	}
	return s.Source.List(ctx, offset, min(limit, 20))
}

// More rows than pages can be stitched over may arrive between two pages of the initial
// sync: it reads the start of the list and continues.
func TestBurstInInitialSync(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.fill(200)
	_, err := syncAll(t.Context(), b.syncer, &burst{Source: b.client.WithRetries(0), b: b, left: 2})
	if got := b.ledger.Listed(); err != nil || got != 200+2*8*maxLimit {
		t.Errorf("%d are listed, error %v", got, err)
	}
}

// brieflyUnreadable is a Source of pages of up to 21 rows, of which some in a row cannot
// be read.
type brieflyUnreadable struct {
	Source
	n *int
}

// List implements Source.
func (s brieflyUnreadable) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	if *s.n++; 2 <= *s.n && *s.n <= 10 {
		return opper.Page{}, opper.ErrTooLarge
	}
	return s.Source.List(ctx, offset, min(limit, 21))
}

// A small page that is read again does not show the end of the list.
func TestSmallPageReadAgain(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.syncer.cfg.MaxTaken = 50 // the rest would be taken for new ones
	b.fill(280)
	if _, err := syncAll(t.Context(), b.syncer, brieflyUnreadable{b.client.WithRetries(0), new(int)}); err != nil {
		t.Fatal(err)
	}
	if got := b.ledger.Listed(); got < 280 {
		t.Errorf("%d of 280 rows are believed to be listed", got)
	}
}
