package syncer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-kit/log"

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

// Traces expire while others arrive, for a long time; then nobody syncs for a
// while, or the process stands still between the two ends of the list. At some
// time before, total_count was too low for one sync.
func TestPauseInSteadyExpiry(t *testing.T) {
	const every = time.Second
	for order, cfg := range orders {
		for _, pause := range []time.Duration{70 * time.Second, 2 * time.Minute, 5 * time.Minute, 9 * time.Minute} {
			for _, between := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v between requests %t", order, pause, between), func(t *testing.T) {
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
					b.arrive("news", 5, every)
					stale = 3
					b.mustSync()
					stale = 0
					b.steady("steady", every, 20*time.Minute)
					if between {
						requests := 0
						b.opper.OnRequest(func(oppertest.Request) {
							if requests++; requests == 2 {
								b.arrive("pause", int(pause/every), every)
							}
						})
					} else {
						b.arrive("pause", int(pause/every), every)
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

// More than a page leaves the end of the list at once, without news, before a
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

// All traces of a small project began within one interval, a while ago: that
// does not make the list of another project ours, once the key goes there.
func TestForeignListOfSmallOldProject(t *testing.T) {
	for _, age := range []time.Duration{2 * time.Minute, 61 * time.Minute, 3 * time.Hour, 3 * 24 * time.Hour} {
		for _, ours := range []int{1, 5, 40, 150} {
			for _, theirs := range []int{1, 40, 150, 400} {
				t.Run(fmt.Sprintf("%d of %v ago against %d", ours, age, theirs), func(t *testing.T) {
					b := newBench(t, oppertest.Config{})
					b.arrive("ours", ours, 100*time.Millisecond)
					b.mustSync()
					for end := b.now().Add(age); b.now().Before(end); {
						b.step(age / 10)
						b.mustSync()
						b.sweep(10)
					}
					counted, listed := len(b.counted), b.ledger.Listed()
					other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
					other.FillHistory(theirs, 3, b.now().Add(-2*time.Hour), b.now())
					b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
					for range 4 {
						b.step(settle + time.Second)
						if err := b.sync(); !errors.Is(err, ErrForeign) {
							t.Errorf("error %v", err)
						}
					}
					if len(b.counted) != counted || b.ledger.Listed() != listed {
						t.Fatalf("counted %d more, %d listed", len(b.counted)-counted, b.ledger.Listed())
					}
					b.opper.Clear()
					b.mustSync()
					b.quiet()
					b.check()
				})
			}
		}
	}
}

// A row that could not be read for some seconds is counted soon after it can be
// read again, while no sweep is due.
func TestUnreadableRowReadAgainSoon(t *testing.T) {
	for where, place := range map[string]int{"first": 0, "second": 1, "middle": 437, "last": 499} {
		for _, listed := range []int{20, 500} {
			t.Run(fmt.Sprint(where, " of ", listed), func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				b.walker.cfg.SweepInterval = 24 * time.Hour
				rows := b.fill(listed)
				b.opper.Fail(oppertest.Fault{Row: rows[min(place, listed-1)].ID, Times: -1, Answer: oppertest.Errors(http.StatusInternalServerError)["v2 string"]})
				b.mustSync()
				b.step(10 * time.Second)
				b.opper.Clear()
				// Ten minutes: a backoff that began at an interval has tried it a few times.
				for range 20 {
					b.step(30 * time.Second)
					b.mustSync()
					b.sweep(10)
				}
				if got := len(b.counted); got != listed {
					t.Errorf("counted %d, want %d\n%s", got, listed, b.log.String())
				}
			})
		}
	}
}

// An upstream that ignores offset, or lists new rows for ever, ends a sync with
// an error, after a bounded number of requests.
func TestOffsetIgnoredIsAnError(t *testing.T) {
	// What an answer of such a server is made of.
	type list func(b *bench, n, offset, limit int) (rows []oppertest.Trace, total int)
	endless := func(b *bench, _, offset, limit int) ([]oppertest.Trace, int) {
		var rows []oppertest.Trace
		for i := range limit {
			rows = append(rows, endedTrace(fmt.Sprint("endless ", offset+i), b.now()))
		}
		return rows, 350
	}
	frozen := func(b *bench, _, _, limit int) ([]oppertest.Trace, int) {
		rows := b.opper.Snapshot()
		return rows[:min(limit, len(rows))], len(rows)
	}
	whole := func(b *bench, _, _, _ int) ([]oppertest.Trace, int) {
		rows := b.opper.Snapshot()
		return rows[:min(100, len(rows))], len(rows)
	}
	news := func(b *bench, n, offset, limit int) ([]oppertest.Trace, int) {
		b.opper.Add(endedTrace(fmt.Sprintf("during %d", n), b.now()))
		return frozen(b, n, offset, limit)
	}
	for name, of := range map[string]list{
		"same page": frozen, "same page whatever the limit": whole, "the newest page": news, "endless": endless,
	} {
		for _, total := range []bool{true, false} {
			if name == "endless" && !total {
				continue // nothing tells it from a long list
			}
			for _, when := range []string{"initial sync", "sync", "sync after a burst", "sync after expiry"} {
				t.Run(fmt.Sprintf("%s/total %t/%s", name, total, when), func(t *testing.T) {
					b := newBench(t, oppertest.Config{})
					rows := b.fill(350)
					if when != "initial sync" {
						b.mustSync()
						b.quiet()
					}
					switch when {
					case "sync after a burst":
						b.arrive("burst", 250, time.Millisecond)
					case "sync after expiry":
						for _, row := range rows[150:] {
							b.opper.Delete(row.ID)
						}
					}
					counted := len(b.counted)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					src := &wrongLists{inner: b.client.WithRetries(0), list: func(n, offset, limit int) opper.Page {
						if n > 1000 {
							cancel() // it would go on for ever
						}
						traces, said := of(b, n, offset, limit)
						return pageOf(traces, said, total)
					}}
					b.step(time.Second)
					ev, err := b.walker.Sync(ctx, src)
					b.take(ev)
					if src.n > 1000 {
						t.Fatalf("%d requests in one sync", src.n)
					}
					// A short look at both ends may not notice it, but what it counts is real.
					if when != "sync" && err == nil {
						t.Errorf("no error after %d requests", src.n)
					}
					if when == "initial sync" && name == "endless" {
						return
					}
					for _, c := range b.counted[counted:] {
						if _, ok := b.opper.Get(c.ID); !ok {
							t.Fatalf("%s is counted, which was never listed", c.ID)
						}
					}
					b.mustSync()
					for range 4 {
						b.quiet()
					}
					b.check()
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

func pageOf(traces []oppertest.Trace, total int, said bool) opper.Page {
	page := opper.Page{Total: -1}
	if said {
		page.Total = total
	}
	for _, tr := range traces {
		row := opper.Trace{ID: tr.ID}
		if tr.Name != nil {
			row.Name = *tr.Name
		}
		if tr.Status != nil {
			row.Status, row.HasStatus = *tr.Status, true
		}
		if tr.Tokens != nil {
			row.Tokens, row.HasTokens = *tr.Tokens, true
		}
		if tr.Start != nil {
			row.Start = *tr.Start
		}
		if tr.End != nil {
			row.End = *tr.End
		}
		switch {
		case tr.DurationMS != nil:
			row.Duration, row.HasDuration = time.Duration(*tr.DurationMS*1000)*time.Microsecond, true
		case tr.Start != nil && tr.End != nil:
			row.Duration, row.HasDuration = tr.End.Sub(*tr.Start), true
		}
		page.Traces = append(page.Traces, row)
	}
	return page
}

// A list that turned over completely while nobody could look, because all of it
// expired in that time, is still ours.
func TestListTurnedOver(t *testing.T) {
	for _, retention := range []time.Duration{5 * time.Minute, 15 * time.Minute, 40 * time.Minute, 3 * time.Hour} {
		for _, back := range []int{0, 1, 60, 250} {
			t.Run(fmt.Sprintf("%v/%d after it", retention, back), func(t *testing.T) {
				b := newBench(t, oppertest.Config{Retention: retention})
				every := retention / 300
				b.arrive("history", 300, every)
				b.mustSync()
				b.steady("before", every, 2*retention) // it shows how long traces stay
				b.step(retention + retention/2)
				b.arrive("back", back, time.Second)
				b.step(time.Second)
				if err := b.sync(); err != nil {
					t.Errorf("sync: %v", err)
				}
				b.quiet()
				b.check()
			})
		}
	}
}

// A process that was restarted knows its list as well as before.
func TestBurstAfterRestart(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("first", 1, time.Second)
	b.mustSync()
	b.quiet()
	state, err := b.walker.State()
	if err != nil {
		t.Fatal(err)
	}
	b.ledger = ledger.Restore(ledger.Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: time.Second}, b.ledger.Changes(), b.now())
	b.walker = New(Config{Now: b.now, Interval: 30 * time.Second, SweepInterval: sweepEvery, Concurrency: 1, Logger: log.NewLogfmtLogger(&b.log)}, b.ledger)
	if err := b.walker.Restore(state); err != nil {
		t.Fatal(err)
	}
	b.arrive("burst", 400, time.Millisecond)
	b.mustSync()
	b.quiet()
	if got := len(b.counted); got != 401 {
		t.Errorf("counted %d", got)
	}
}

// The time for which the process stands still while it reads another list says
// nothing about what the list held when its start was read.
func TestForeignListBeforePause(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("ours", 150, 100*time.Millisecond)
	b.mustSync()
	b.quiet()
	b.step(time.Minute)
	counted := len(b.counted)
	src := &wrongLists{inner: b.client.WithRetries(0), list: func(n, offset, limit int) opper.Page {
		if n == 4 {
			b.step(12 * time.Hour)
		}
		var rows []oppertest.Trace
		for i := offset; i < min(offset+limit, 250); i++ {
			rows = append(rows, endedTrace(fmt.Sprint("theirs ", i), b.now().Add(-time.Second)))
		}
		return pageOf(rows, 250, true)
	}}
	ev, err := b.walker.Sync(t.Context(), src)
	b.take(ev)
	if !errors.Is(err, ErrForeign) {
		t.Errorf("error %v", err)
	}
	if got := b.ledger.Listed(); got != 150 || len(b.counted) != counted {
		t.Errorf("%d listed, %d counted", got, len(b.counted)-counted)
	}
}

// A row without an id and a start is the same in each project.
func TestNamelessRowTiesNoList(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.arrive("ours", 10, time.Second)
	nameless := oppertest.Trace{End: new(b.now())}
	b.opper.Add(nameless)
	b.mustSync()
	b.quiet()
	listed := b.ledger.Listed()
	other := oppertest.New(oppertest.Config{Now: b.now, Seed: 99})
	other.FillHistory(30, 3, b.now().Add(-time.Hour), b.now())
	other.Add(nameless)
	b.opper.Fail(oppertest.Fault{Times: -1, Answer: oppertest.OtherProject(other)})
	b.step(sweepEvery)
	for range 3 {
		ev, err := b.walker.Sweep(t.Context(), b.client.WithRetries(0))
		b.take(ev)
		if err == nil || b.ledger.Listed() != listed {
			t.Fatalf("error %v, %d listed, want %d", err, b.ledger.Listed(), listed)
		}
	}
}
