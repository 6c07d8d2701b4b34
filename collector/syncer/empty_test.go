package syncer

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// emptied answers as if nothing were listed, and with a 404 for single traces if all is set.
func (b *bench) emptied(total string, all bool, times int) {
	b.opper.Fail(oppertest.Fault{Times: times, Answer: oppertest.Respond(200, "application/json", `{"meta":{`+total+`},"data":[]}`), Match: func(r oppertest.Request) bool { return r.ID == "" }})
	if all {
		b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.Errors(404)["v2 string"], Match: func(r oppertest.Request) bool { return r.ID != "" }})
	}
}

// openTrace is one that runs.
func openTrace(name string, at time.Time) oppertest.Trace {
	tr := endedTrace(name, at)
	tr.End, tr.DurationMS, tr.Status = nil, nil, nil
	return tr
}

// A list that is empty for a moment, as where a gateway or Opper is in trouble, delists
// nothing, and no running trace is lost.
func TestListEmptyForAMoment(t *testing.T) {
	for order, cfg := range orders {
		for _, total := range []string{`"total_count":0`, ``} {
			for _, all := range []bool{false, true} {
				for _, listed := range []int{1, 30, 400} {
					for _, syncs := range []int{1, 2, 3} {
						t.Run(fmt.Sprintf("%s/%d rows, %d syncs, meta {%s}, single traces too %t", order, listed, syncs, total, all), func(t *testing.T) {
							b := newBench(t, cfg)
							open := openTrace("open", b.now())
							b.opper.Add(open)
							b.arrive("first", listed-1, time.Second)
							b.mustSync()
							b.emptied(total, all, -1)
							for range syncs {
								b.step(30 * time.Second)
								if err := b.sync(); !errors.Is(err, errEmpty) {
									t.Errorf("error %v", err)
								}
								if n := b.ledger.Listed(); n != listed {
									t.Errorf("%d listed, want %d", n, listed)
								}
							}
							b.opper.Clear()
							b.opper.Update(open.ID, func(tr *oppertest.Trace) { tr.End = new(b.now()) })
							b.step(5 * time.Minute)
							b.mustSync()
							b.quiet()
							b.check()
							if len(b.counted) != listed {
								t.Errorf("counted %d, want %d", len(b.counted), listed)
							}
						})
					}
				}
			}
		}
	}
}

// Each time a list becomes empty, the wait starts over.
func TestListEmptyAgain(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("first", 3, time.Second)
	b.mustSync()
	deleteAll(b)
	for b.sync() != nil {
		b.step(30 * time.Second)
	}
	open := openTrace("open", b.now())
	b.opper.Add(open)
	b.mustSync()
	b.step(2 * time.Hour)
	b.emptied("", true, 1)
	if err := b.sync(); !errors.Is(err, errEmpty) || b.ledger.Listed() != 1 {
		t.Errorf("error %v, %d listed", err, b.ledger.Listed())
	}
}

// A pause of hours does not explain that nothing is listed, where no trace was seen to expire.
func TestListEmptyAfterAPause(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	open := openTrace("open", b.now())
	b.opper.Add(open)
	b.arrive("first", 30, time.Second)
	b.mustSync()
	b.step(5 * time.Hour)
	b.emptied("", true, -1)
	if err := b.sync(); !errors.Is(err, errEmpty) {
		t.Errorf("error %v", err)
	}
	b.opper.Clear()
	b.step(30 * time.Second)
	b.mustSync()
	b.quiet()
	b.check()
	if len(b.counted) != 31 {
		t.Errorf("counted %d, want 31", len(b.counted))
	}
}

// Pages are empty for a few requests only, at the head and at the tail.
func TestPagesEmptyForSomeRequests(t *testing.T) {
	for order, cfg := range orders {
		for _, after := range []int{0, 1, 2, 3} {
			for _, times := range []int{1, 2, 3, 7} {
				for _, arrivals := range []int{0, 250} {
					t.Run(fmt.Sprintf("%s/%d after %d, %d new", order, times, after, arrivals), func(t *testing.T) {
						b := newBench(t, cfg)
						open := openTrace("open", b.now())
						b.opper.Add(open)
						b.arrive("first", 400, time.Second)
						b.mustSync()
						b.arrive("new", arrivals, time.Millisecond)
						b.step(settle)
						b.opper.Fail(oppertest.Fault{After: after, Times: times, Answer: oppertest.Respond(200, "application/json", `{"meta":{"total_count":0},"data":[]}`), Match: func(r oppertest.Request) bool { return r.ID == "" }})
						_ = b.sync() // it may fail
						if n := b.ledger.Listed(); n < 401 {
							t.Errorf("%d listed", n)
						}
						b.opper.Clear()
						b.opper.Update(open.ID, func(tr *oppertest.Trace) { tr.End = new(b.now()) })
						b.step(time.Minute)
						b.mustSync()
						b.quiet()
						b.check()
						if n := b.ledger.Listed(); n != 401+arrivals {
							t.Errorf("%d listed, want %d", n, 401+arrivals)
						}
					})
				}
			}
		}
	}
}

// A list that has become empty is believed to be: at once if expiry explains it, soon if
// Opper does not have what was listed, and in the end even if it does.
func TestListStaysEmpty(t *testing.T) {
	t.Run("expired", func(t *testing.T) {
		b := newBench(t, oppertest.Config{Retention: 20 * time.Minute})
		b.steady("steady", time.Second, 45*time.Minute)
		for b.opper.Len() > 0 {
			b.step(30 * time.Second)
			b.mustSync()
		}
		if n := b.ledger.Listed(); n != 0 {
			t.Errorf("%d listed", n)
		}
	})
	for name, c := range map[string]struct {
		empty func(b *bench)
		after time.Duration
	}{
		"deleted":           {deleteAll, 90 * time.Second},
		"listed no more":    {func(b *bench) { b.emptied("", false, -1) }, time.Hour},
		"all said to be so": {func(b *bench) { b.emptied("", true, -1) }, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, oppertest.Config{})
			b.arrive("first", 30, time.Second)
			b.mustSync()
			b.quiet()
			c.empty(b)
			began := b.now()
			for b.sync() != nil {
				b.step(30 * time.Second)
				if b.now().Sub(began) > 2*time.Hour {
					t.Fatal("the empty list is never believed")
				}
			}
			if took := b.now().Sub(began); took != c.after || b.ledger.Listed() != 0 {
				t.Errorf("believed after %v, %d listed", took, b.ledger.Listed())
			}
			b.opper.Clear()
			b.arrive("later", 5, time.Second)
			b.quiet()
			b.check()
			if len(b.counted) != 35 {
				t.Errorf("counted %d", len(b.counted))
			}
		})
	}
}

// A running trace that was believed to be delisted is counted if it is listed again.
func TestVanishedTraceComesBack(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	open := openTrace("open", b.now())
	b.opper.Add(open)
	b.arrive("first", 30, time.Second)
	b.mustSync()
	b.emptied("", true, -1)
	for range 20 {
		b.step(30 * time.Second)
		_ = b.sync() // at first it fails
	}
	if b.ledger.Listed() != 0 {
		t.Fatalf("%d listed", b.ledger.Listed())
	}
	b.opper.Clear()
	b.mustSync()
	b.opper.Update(open.ID, func(tr *oppertest.Trace) { tr.End = new(b.now()) })
	b.step(time.Minute)
	b.mustSync()
	b.quiet()
	if len(b.counted) != 31 {
		t.Errorf("counted %d, want 31", len(b.counted))
	}
}

// What was listed a moment ago has not expired, however long ago the last good sync was.
func TestListReadBeforeItSeemsEmpty(t *testing.T) {
	for _, inOneSync := range []bool{true, false} {
		b := newBench(t, oppertest.Config{})
		b.arrive("first", 400, time.Second)
		b.mustSync()
		b.step(3 * time.Hour)
		open := openTrace("open", b.now())
		b.opper.Add(open)
		b.step(time.Second)
		if !inOneSync {
			b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.Errors(401)["plain"], Match: func(r oppertest.Request) bool { return r.Offset > 0 }})
			if err := b.sync(); err == nil {
				t.Error("no error")
			}
			b.opper.Clear()
			b.step(30 * time.Second)
		}
		requests := 0
		b.opper.OnRequest(func(oppertest.Request) {
			if requests++; requests > 1 || !inOneSync {
				b.emptied("", true, -1)
			}
		})
		_ = b.sync() // it may fail
		if b.ledger.Listed() != 401 {
			t.Errorf("in one sync %t: %d listed", inOneSync, b.ledger.Listed())
		}
	}
}
