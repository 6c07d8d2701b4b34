package syncer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

var totals = map[string]func(int) *int{
	"honest":             nil,
	"missing":            func(int) *int { return nil },
	"capped below":       func(n int) *int { return new(min(n, 2)) },
	"capped in the page": func(n int) *int { return new(min(n, 60)) },
	"capped above":       func(n int) *int { return new(min(n, 150)) },
	"stale":              func(int) *int { return new(3) },
}

var orders = map[string]oppertest.Config{
	"newest first by arrival": {},
	"oldest first by arrival": {OldestFirst: true},
	"newest first by start":   {SortBy: oppertest.ByStart},
	"newest first by update":  {SortBy: oppertest.ByUpdate},
	"by id":                   {SortBy: oppertest.ByID},
}

// arrive lists n traces, so far from each other that the last arrives now.
func (b *bench) arrive(prefix string, n int, every time.Duration) {
	b.t.Helper()
	for i := range n {
		b.step(every)
		b.opper.Add(endedTrace(fmt.Sprint(prefix, " ", i), b.now()))
	}
}

// steady lists a trace at each interval and syncs every 30 s, for some time.
func (b *bench) steady(prefix string, every, d time.Duration) {
	b.t.Helper()
	n := 0
	for end := b.now().Add(d); b.now().Before(end); {
		for next := b.now().Add(30 * time.Second); b.now().Before(next); n++ {
			b.arrive(fmt.Sprint(prefix, " ", n), 1, every)
		}
		b.mustSync()
		b.sweep(2)
	}
}

// A list that grew by more than it held is still our list.
func TestBurstLargerThanList(t *testing.T) {
	for order, cfg := range orders {
		for total, said := range totals {
			for _, size := range []struct{ listed, burst int }{{1, 10_000}, {1, 150}, {3, 100}, {3, 150}, {90, 250}, {150, 300}, {150, 800}} {
				if size.burst > 1500 && (order != "newest first by arrival" || total != "honest") {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d after %d", order, total, size.burst, size.listed), func(t *testing.T) {
					cfg.TotalCount = said
					b := newBench(t, cfg)
					b.arrive("first", size.listed, time.Second)
					b.mustSync()
					b.quiet()
					b.arrive("burst", size.burst, 10*time.Millisecond)
					b.step(time.Second)
					b.mustSync()
					b.quiet()
					b.check()
					if got, want := len(b.counted), size.listed+size.burst; got != want {
						t.Errorf("counted %d, want %d", got, want)
					}
				})
			}
		}
	}
}

// Traces expire while others arrive, for a long time; then there is no sync for a
// while, or the process stands still between the two ends of the list. Fewer may arrive
// meanwhile, which makes the list shorter. At some time before, total_count was too low
// for one sync.
func TestPauseInSteadyExpiry(t *testing.T) {
	const every = time.Second
	for order, cfg := range orders {
		for _, pause := range []struct{ lasts, every time.Duration }{{70 * time.Second, every}, {2 * time.Minute, every}, {5 * time.Minute, every}, {5 * time.Minute, 2 * every}, {9 * time.Minute, every}, {17 * time.Minute, every}} {
			if order == "by id" && pause.lasts > 15*time.Minute {
				continue // its end does not show how long traces stay
			}
			for _, between := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/one each %v between requests %t", order, pause.lasts, pause.every, between), func(t *testing.T) {
					stale := 0
					cfg.Retention = 15 * time.Minute
					cfg.TotalCount = func(n int) *int {
						if stale > 0 {
							stale--
							return new(n / 2)
						}
						return new(n)
					}
					b := newBench(t, cfg)
					b.arrive("history", 900, every)
					b.mustSync()
					b.arrive("new", 5, every)
					stale = 3
					b.mustSync()
					stale = 0
					b.steady("steady", every, 20*time.Minute)
					if between {
						requests := 0
						b.opper.OnRequest(func(oppertest.Request) {
							if requests++; requests == 2 {
								b.arrive("pause", int(pause.lasts/pause.every), pause.every)
							}
						})
					} else {
						b.arrive("pause", int(pause.lasts/pause.every), pause.every)
					}
					for range 3 {
						if err := b.sync(); err != nil {
							t.Errorf("sync: %v", err)
						}
						b.step(time.Second)
					}
					b.quiet()
					b.check()
				})
			}
		}
	}
}

// More than a page leaves the end of the list at once, without new ones, before a
// sync or between its two requests.
func TestTailExpiredByMoreThanAPage(t *testing.T) {
	for total, said := range map[string]func(int) *int{
		"honest":    nil,
		"missing":   func(int) *int { return nil },
		"capped":    func(n int) *int { return new(min(n, 150)) },
		"not lower": func(n int) *int { return new(max(n, 700)) },
	} {
		for _, between := range []bool{false, true} {
			for _, expired := range []int{5, 10, 60, 110, 150, 205, 300, 420, 590} {
				t.Run(fmt.Sprintf("%s/%d between requests %t", total, expired, between), func(t *testing.T) {
					b := newBench(t, oppertest.Config{TotalCount: said})
					rows := b.fill(700)
					b.mustSync()
					b.quiet()
					expire := func() {
						for _, row := range rows[700-expired:] {
							b.opper.Delete(row.ID)
						}
					}
					if between {
						requests := 0
						b.opper.OnRequest(func(oppertest.Request) {
							if requests++; requests == 2 {
								expire()
							}
						})
					} else {
						expire()
					}
					for range 3 {
						b.step(settle + time.Second)
						if err := b.sync(); err != nil {
							t.Errorf("sync: %v", err)
						}
					}
					if n := b.ledger.Listed(); n != 700-expired {
						t.Errorf("%d believed to be listed, want %d", n, 700-expired)
					}
				})
			}
		}
	}
}

// wrongLists is a Source whose lists are made up.
type wrongLists struct {
	inner Source
	n     int
	list  func(n, offset, limit int) opper.Page
}

// List implements Source.
func (s *wrongLists) List(ctx context.Context, offset, limit int) (opper.Page, error) {
	s.n++
	page := s.list(s.n, offset, limit)
	return page, ctx.Err()
}

// Get implements Source.
func (s *wrongLists) Get(ctx context.Context, id string) (opper.Trace, error) {
	s.n++
	return s.inner.Get(ctx, id)
}

// A process that was restarted knows its list as well as before.
func TestBurstAfterRestart(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("first", 1, time.Second)
	b.mustSync()
	b.quiet()
	b.restart()
	b.arrive("burst", 400, time.Millisecond)
	b.mustSync()
	b.quiet()
	if got := len(b.counted); got != 401 {
		t.Errorf("counted %d", got)
	}
}

// After another project's list, ours is known again by its newest known trace, also
// where Opper refuses to list as deep as that and all others have expired.
func TestOnlyNewestKnownIsLeft(t *testing.T) {
	b := newBench(t, oppertest.Config{Retention: time.Hour, MaxOffset: 80})
	b.arrive("old", 20, time.Second)
	b.step(40 * time.Minute)
	b.arrive("newest", 1, time.Second)
	b.quiet()
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(300, 3, epoch.Add(-time.Hour), epoch)
	b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
	for range 2 {
		b.step(time.Minute)
		if err := b.sync(); !errors.Is(err, errForeign) {
			t.Fatalf("error %v", err)
		}
	}
	b.opper.Clear()
	b.arrive("burst", 300, time.Millisecond)
	b.step(20 * time.Minute)
	b.mustSync()
}

// After an outage in which all known traces may have expired, the key says whose a list
// is: with the same one it is ours whatever its times, and with another one it is not
// until a known trace is listed. Nor is an empty list.
func TestKeyTellsWhoseListItIs(t *testing.T) {
	for _, isSame := range []bool{true, false} {
		b := newBench(t, oppertest.Config{})
		b.arrive("ours", 40, 100*time.Millisecond)
		b.mustSync()
		b.step(2 * time.Hour)
		b.mustSync()
		counted := len(b.counted)
		b.step(70 * time.Minute)
		other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
		b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
		if !isSame {
			b.key = "another"
			if err := b.sync(); !errors.Is(err, errForeign) {
				t.Errorf("an empty list of another key: %v", err)
			}
		}
		since := b.now().Add(-80 * time.Minute) // before the last sync, as that of another project would be
		if !isSame {
			since = b.now().Add(-30 * time.Minute) // as ours would be
		}
		other.FillHistory(150, 3, since, since.Add(9*time.Minute))
		var err error
		for range 3 {
			b.step(settle + time.Second)
			err = b.sync()
		}
		if got := len(b.counted) - counted; (err == nil) != isSame || (got == 150) != isSame {
			t.Errorf("same key: %v, counted %d of 150, error %v", isSame, got, err)
		}
		if !isSame {
			b.key = "ours"
			b.opper.Clear()
			b.mustSync()
		}
	}
}

// A key that changes to that of another project in the middle of the first initial sync,
// between two requests or during one, takes in nothing of that, neither at once nor after
// a restart.
func TestOtherKeyInTheFirstInitialSync(t *testing.T) {
	for _, answered := range []int{0, 1} { // requests that still read our list
		b := newBench(t, oppertest.Config{})
		b.fill(800)
		pages := 0
		other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
		other.FillHistory(1000, 3, b.now().Add(-2*time.Hour), b.now())
		b.opper.OnRequest(func(oppertest.Request) {
			if pages++; pages == 4 {
				b.key = "another"
				b.opper.Fail(oppertest.Fault{After: answered, Times: -1, Answer: oppertest.OtherProject(other)})
			}
		})
		for i := range 4 {
			b.step(settle + time.Second)
			if err := b.sync(); !errors.Is(err, errForeign) {
				t.Errorf("error %v", err)
			}
			for _, theirs := range other.Snapshot() {
				if b.ledger.HasSeen(ledger.KeyOf(theirs.ID)) {
					t.Fatalf("sync %d: a row of another list is taken in", i)
				}
			}
			state, err := b.syncer.State()
			if err != nil {
				t.Fatal(err)
			}
			b.syncer = New(b.syncer.cfg, b.ledger)
			if err := b.syncer.Restore(state); err != nil {
				t.Fatal(err)
			}
		}
		b.key = "ours"
		b.opper.Clear()
		b.mustSync()
		b.quiet()
		b.check()
	}
}

// A key that changes while the last page of a sync is read is not the one of its list.
func TestKeyChangesAtTheEndOfASync(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("ours", 150, 100*time.Millisecond)
	b.mustSync()
	b.quiet()
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(150, 3, b.now().Add(-time.Minute), b.now())
	b.opper.OnRequest(func(oppertest.Request) { b.key = "another" })
	b.opper.Fail(oppertest.Fault{After: 2, Times: -1, Answer: oppertest.OtherProject(other)})
	b.mustSync()
	counted := len(b.counted)
	for range 3 {
		b.step(24 * time.Hour)
		if err := b.sync(); !errors.Is(err, errForeign) {
			t.Errorf("error %v", err)
		}
	}
	if len(b.counted) != counted || b.ledger.Listed() != 150 {
		t.Errorf("counted %d more, %d listed", len(b.counted)-counted, b.ledger.Listed())
	}
}
