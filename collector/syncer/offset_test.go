package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

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
	growing := func(b *bench, n, offset, limit int) ([]oppertest.Trace, int) {
		rows, _ := endless(b, n, offset, limit)
		return rows, offset + limit + 100
	}
	round := func(b *bench, _, offset, limit int) ([]oppertest.Trace, int) {
		all := b.opper.Snapshot()
		var rows []oppertest.Trace
		for i := range limit {
			rows = append(rows, all[(offset+i)%len(all)])
		}
		return rows, 1 << 50
	}
	newest := func(b *bench, n, offset, limit int) ([]oppertest.Trace, int) {
		b.opper.Add(endedTrace(fmt.Sprintf("during %d", n), b.now()))
		return frozen(b, n, offset, limit)
	}
	for name, of := range map[string]list{
		"same page": frozen, "same page whatever the limit": whole, "the newest page": newest, "endless": endless, "endless with a growing total": growing, "without end, again and again": round,
	} {
		for _, total := range []bool{true, false} {
			if strings.HasPrefix(name, "endless") && !total {
				continue // nothing tells it from a long list
			}
			for _, when := range []string{"initial sync", "sync", "sync after a burst", "sync after expiry"} {
				if name == "without end, again and again" && when != "initial sync" {
					continue // where the end is looked for, only maxUncounted is a limit
				}
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
					ev, err := syncAll(ctx, b.syncer, src)
					b.take(ev)
					if src.n > 1000 {
						t.Fatalf("%d requests in one sync", src.n)
					}
					// A short look at both ends may not notice it, but what it counts is real.
					if when != "sync" && err == nil {
						t.Errorf("no error after %d requests", src.n)
					}
					if when == "initial sync" && strings.Contains(name, "end") {
						return // what was counted is not of the list
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

// Pages that hold each of their rows twice follow each other where one leads back to the
// other, and each of them has rows that the one before it had not.
func TestPagesThatLeadBackEnd(t *testing.T) {
	for _, when := range []string{"initial sync", "sync after a burst"} {
		for _, total := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/total %t", when, total), func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				b.fill(350)
				if when != "initial sync" {
					b.mustSync()
					b.quiet()
					b.arrive("burst", 250, time.Millisecond)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				src := &wrongLists{inner: b.client.WithRetries(0), list: func(n, offset, limit int) opper.Page {
					if n > 1000 {
						cancel() // it would go on for ever
					}
					all := b.opper.Snapshot()
					rows := all[min(offset, len(all)):min(offset+limit/2, len(all))]
					return pageOf(slices.Concat(rows, rows), len(all), total)
				}}
				if _, err := syncAll(ctx, b.syncer, src); err == nil || src.n > 1000 {
					t.Errorf("%v after %d requests", err, src.n)
				}
			})
		}
	}
}

// A list that is longer than its total_count says is read to its end, if that may be
// capped or was said before.
func TestListIsLongerThanItsTotal(t *testing.T) {
	capped := func(real int) *int { return new(min(real, 1_000)) }
	none := func(int) *int { return nil }
	for name, c := range map[string]struct {
		before, burst int
		total         func(real int) *int // from the burst on
	}{
		"a cap in an initial sync":      {0, totalFactor*1_000 + totalSlack + 200, capped},
		"a cap after a total was right": {300, totalFactor*1_000 + totalSlack + 200, capped},
		"no total after one was said":   {1, totalFactor*1 + totalSlack + 200, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			total := func(real int) *int { return &real }
			b := newBench(t, oppertest.Config{TotalCount: func(real int) *int { return total(real) }, NoRecord: true})
			if c.before > 0 {
				b.fill(c.before)
				b.mustSync()
				b.quiet()
			}
			total = c.total
			b.arrive("burst", c.burst, time.Millisecond)
			b.quiet()
			b.check()
		})
	}
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

// A list that turned over completely while it could not be read, because all of it
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
