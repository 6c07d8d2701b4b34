package oracle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

func TestVerdict(t *testing.T) {
	const must, may, no = "must", "may", ""
	// The versions that tell the lives apart: their tokens, or A for abandoned.
	for _, c := range []struct {
		name string
		cfg  oppertest.Config
		play func(w *world)
		want string
		as   string
	}{
		{"never served", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.c.set(100) }, no, ""},
		{"read once", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.c.set(100) }, no, ""},
		{"read too soon", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 39); w.c.set(100) }, no, ""},
		{"settled as served, not as the first sync surely knew", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 40) }, may, "1"},
		{"settled and read", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41) }, must, "1"},
		{"the second sync failed", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.read(41) }, may, "1"},
		{"the first sync failed", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.read(10); w.sync(41) }, may, "1"},
		{"not read by the syncs", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.c.set(100)
			w.rules.Syncs = []Sync{{Start: sec(10), End: sec(11)}, {Start: sec(50), End: sec(51)}}
		}, must, ""},
		{"came at the instant of the sync", oppertest.Config{}, func(w *world) { w.add(10, endedTrace()); w.sync(10, 41) }, may, "1"},
		{"left at the instant of the sync's end", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41); w.delete(42) }, may, "1"},
		{"left later", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41); w.delete(43) }, must, "1"},
		{"listed when rows were skipped", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41); w.skipped(1) }, may, "1"},
		{"listed after rows were skipped", oppertest.Config{}, func(w *world) { w.add(2, endedTrace()); w.sync(10, 41); w.skipped(1) }, must, "1"},
		{"slack", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 38); w.rules.Slack = 2 * time.Second }, may, "1"},

		{"late tokens in time", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(20, tokens(2))
			w.sync(30, 41)
		}, must, "2"},
		{"later tokens", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.read(40)
			w.update(41, tokens(2))
			w.sync(50)
			w.update(55, tokens(3))
			w.read(60)
		}, must, "1 2"},
		{"a version that was never listed", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(41, tokens(2))
			w.update(42, tokens(3))
			w.sync(50)
		}, must, "3"},
		{"changed while the sync ran", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.read(50)
			w.rules.Syncs = append(w.rules.Syncs, Sync{Start: sec(50), End: sec(60), Full: true})
			w.update(55, tokens(2))
			w.read(56)
		}, may, "1 2"},

		{"delisted before it settled", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.sync(10); w.delete(20); w.sync(50) }, may, "1"},
		{"expired before it settled", oppertest.Config{Retention: 20 * time.Second}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 50) }, may, "1"},
		{"delisted while open", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10); w.delete(20); w.sync(50, 2000) }, no, ""},
		{"ended and delisted between two reads", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(20, end)
			w.delete(21)
			w.sync(50)
		}, no, ""},

		{"open, then ended", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(20, end)
			w.sync(30, 70)
		}, must, "1"},
		{"long open: the next read may be an eighth of its age later", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(401, end)
			w.sync(450, 490)
		}, may, "1"},
		{"long open, read later", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10)
			w.update(401, end)
			w.sync(502, 540)
		}, must, "1"},
		{"not yet abandoned", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1009) }, no, ""},
		{"may be abandoned", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1010, 1260) }, may, "A"},
		{"must be abandoned", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.sync(10, 1010, 1261) }, must, "A"},
		{"abandoned, then ended", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10, 1261)
			w.update(1300, end)
			w.sync(1800, 1900)
		}, must, "A"},
		{"perhaps abandoned, then ended", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.sync(10, 1010)
			w.update(1020, end)
			w.sync(1500, 1600)
		}, must, "A 1"},
		{"open for ever, but first seen late", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.sync(900, 1200) }, no, ""},

		{"initial sync: old", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.initialSync(35) }, must, "1"},
		{"initial sync: settled while it ran", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.rules.InitialSync, w.rules.InitialSyncDone = sec(30), sec(40)
			w.read(36)
			w.c.set(41)
		}, may, "1"},
		{"initial sync: recent", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.initialSync(20); w.sync(30) }, no, ""},
		{"initial sync: recent, then settled by its own time", oppertest.Config{}, func(w *world) { w.add(1, endedTrace()); w.initialSync(20); w.sync(35) }, must, "1"},
		{"initial sync: ends in the future", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.update(2, func(t *oppertest.Trace) { t.End = new(sec(100)) })
			w.initialSync(20)
			w.sync(60, 129)
		}, may, "1"},
		{"initial sync: ended in the future", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.update(2, func(t *oppertest.Trace) { t.End = new(sec(100)) })
			w.initialSync(20)
			w.sync(60, 130)
		}, must, "1"},
		{"not listed in the initial sync: its own times do not count", oppertest.Config{}, func(w *world) {
			w.initialSync(10)
			w.add(20, endedTrace())
			w.sync(100, 120)
		}, no, ""},
		{"came while the initial sync ran", oppertest.Config{}, func(w *world) {
			w.rules.InitialSync, w.rules.InitialSyncDone = sec(40), sec(60)
			w.add(50, endedTrace())
			w.read(55)
			w.c.set(70)
		}, may, "1"},
		{"came while the initial sync ran, ends in the future", oppertest.Config{}, func(w *world) {
			w.rules.InitialSync, w.rules.InitialSyncDone = sec(40), sec(60)
			w.add(50, endedTrace())
			w.update(51, func(t *oppertest.Trace) { t.End = new(sec(200)) })
			w.read(55)
			w.sync(70, 110)
		}, may, "1"},
		{"came while the initial sync ran, starts in the future", oppertest.Config{}, func(w *world) {
			w.rules.InitialSync, w.rules.InitialSyncDone = sec(40), sec(60)
			w.add(50, openTrace())
			w.update(51, func(t *oppertest.Trace) { t.Start = new(sec(2000)) })
			w.read(55)
			w.sync(70, 1500)
		}, may, "A"},
		{"initial sync: open and old", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.initialSync(1000) }, must, "A"},
		{"initial sync: open and young", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.initialSync(999) }, no, ""},
		{"initial sync: open and young, may be abandoned", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.initialSync(10); w.sync(1249) }, may, "A"},
		{"initial sync: open and young, must be abandoned", oppertest.Config{}, func(w *world) { w.add(1, openTrace()); w.initialSync(10); w.sync(1250) }, must, "A"},
		{"initial sync: open without a start", oppertest.Config{}, func(w *world) { w.add(1, oppertest.Trace{ID: "x"}); w.initialSync(20) }, must, "A"},
		{"initial sync: ended later", oppertest.Config{}, func(w *world) {
			w.add(1, openTrace())
			w.initialSync(10)
			w.update(20, end)
			w.sync(30, 61)
		}, must, "1"},

		{"behind the head, no sweep", oppertest.Config{SortBy: oppertest.ByStart}, func(w *world) {
			w.s.Add(oppertest.Trace{ID: "y", Start: new(sec(50))})
			w.sync(51)
			w.add(60, endedTrace())
			w.sync(70, 110)
		}, may, "1"},
		{"behind the head, swept", oppertest.Config{SortBy: oppertest.ByStart}, func(w *world) {
			w.s.Add(oppertest.Trace{ID: "y", Start: new(sec(50))})
			w.sync(51)
			w.add(60, endedTrace())
			w.sweep(70)
			w.sync(110)
		}, must, "1"},
		{"behind what was not read is not behind", oppertest.Config{SortBy: oppertest.ByStart}, func(w *world) {
			w.s.Add(oppertest.Trace{ID: "y", Start: new(sec(50))})
			w.add(60, endedTrace())
			w.sync(70, 110)
		}, must, "1"},
		{"no order", oppertest.Config{SortBy: oppertest.ByID}, func(w *world) { w.add(1, endedTrace()); w.sync(10, 41) }, may, "1"},
		{"no order, swept", oppertest.Config{SortBy: oppertest.ByID}, func(w *world) { w.add(1, endedTrace()); w.sweep(10); w.sync(41) }, must, "1"},
		{"shuffled and seen", oppertest.Config{Shuffle: true}, func(w *world) { w.add(1, endedTrace()); w.sweep(10); w.sync(41) }, must, "1"},
		{"shuffled and not seen", oppertest.Config{Shuffle: true}, func(w *world) {
			w.add(1, endedTrace())
			w.sweep(10)
			w.read(41)
			w.rules.Syncs = append(w.rules.Syncs, Sync{Start: sec(50), End: sec(51), Full: true})
		}, may, "1"},

		{"poisoned", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.s.Fail(oppertest.Fault{Answer: oppertest.EmptyObject, Row: "x", Times: -1})
			w.sync(10, 41)
		}, no, ""},
		{"poisoned later", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10, 41)
			w.s.Fail(oppertest.Fault{Answer: oppertest.EmptyObject, Row: "x", Times: -1})
		}, may, "1"},
		{"healed", oppertest.Config{}, func(w *world) {
			w.rules.Reread = 10 * time.Second
			w.add(1, endedTrace())
			w.s.Fail(oppertest.Fault{Answer: oppertest.EmptyObject, Row: "x", Times: -1})
			w.sync(10)
			w.c.set(20)
			w.s.Heal("x")
			w.sync(31, 62)
		}, must, "1"},
		{"healed a moment ago", oppertest.Config{}, func(w *world) {
			w.rules.Reread = 10 * time.Second
			w.add(1, endedTrace())
			w.s.Fail(oppertest.Fault{Answer: oppertest.EmptyObject, Row: "x", Times: -1})
			w.c.set(20)
			w.s.Heal("x")
			w.sync(29, 60)
		}, may, "1"},
		{"spoiled answers are not served", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.s.Fail(oppertest.Fault{Answer: oppertest.Truncated})
			w.c.set(10)
			get(w.t, w.s, "/v2/traces")
			w.read(50)
		}, no, ""},
		{"served by id", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.read(10)
			w.c.set(40)
			get(w.t, w.s, "/v2/traces/x")
		}, may, "1"},
		{"came back", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10, 41)
			w.delete(50)
			w.add(60, endedTrace())
			w.update(61, tokens(2))
			w.sync(70, 110)
		}, may, "1 2"},
		{"open again", oppertest.Config{}, func(w *world) {
			w.add(1, endedTrace())
			w.sync(10)
			w.update(20, func(t *oppertest.Trace) { t.End = nil })
			w.sync(30, 70)
		}, may, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.cfg)
			c.play(w)
			v := NewTruth(w.s, w.rules).Traces["x"]
			var as []string
			for _, version := range v.Versions {
				if version.Outcome == "abandoned" {
					as = append(as, "A")
				} else {
					as = append(as, fmt.Sprint(version.Tokens))
				}
			}
			got := no
			if v.Must {
				got = must
			} else if len(as) > 0 {
				got = may
			}
			if got != c.want || strings.Join(as, " ") != c.as {
				t.Errorf("got %q as %q, want %q as %q", got, as, c.want, c.as)
			}
		})
	}
}
