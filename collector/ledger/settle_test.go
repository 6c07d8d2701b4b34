package ledger

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSettle(t *testing.T) {
	b := newBook(t, 0)
	b.is(b.list(0, ended(1)), "seen 1")
	if got := b.due(1, 0); got != settle {
		t.Errorf("due after %v", got)
	}
	b.is(b.list(settle-1, ended(1)), "")
	b.is(b.list(settle, ended(1)), "counted 1")
	b.is(b.list(2*settle, ended(1)), "")
	if got := b.due(1, 0); got != -1 {
		t.Errorf("a counted trace is due after %v", got)
	}

	// What is counted is what the last look saw.
	b.is(b.list(2*settle, ended(2), ended(1)), "seen 2")
	late := ended(2)
	late.Name, late.Tokens, late.HasTokens = "named", 7, true
	ev := b.list(3*settle, late, ended(1))
	b.is(ev, "counted named")
	if got := ev.Counted[0]; !got.HasTokens || got.Tokens != 7 {
		t.Errorf("counted %+v", got)
	}
}

// Between the request and its answer lies an unknown time: a delay begins with
// the first answer, and is over when a request is made after it.
func TestSettleOverSlowAnswers(t *testing.T) {
	b := newBook(t, 0)
	slow := func(asked, read time.Duration) Events {
		return b.Observe(Run{Rows: []Row{ended(1)}, AtStart: true, AtEnd: true, When: When{epoch.Add(asked), epoch.Add(read)}})
	}
	b.is(slow(0, 20*time.Second), "seen 1")
	b.is(slow(settle, settle+time.Minute), "")
	b.is(slow(20*time.Second+settle, time.Hour), "counted 1")
}

func TestReopenedTracesSettleAnew(t *testing.T) {
	b := newBook(t, 0)
	b.is(b.list(0, ended(1)), "seen 1")
	b.is(b.list(settle-1, open(1)), "")
	b.is(b.list(settle, ended(1)), "")
	b.is(b.list(2*settle-1, ended(1)), "")
	b.is(b.list(2*settle, ended(1)), "counted 1")
	b.is(b.list(2*settle, open(1)), "")
	b.is(b.list(3*settle, ended(1)), "")
}

func TestAbandoned(t *testing.T) {
	b := newBook(t, 0)
	b.is(b.list(0, open(1), open(2)), "seen 1 seen 2")
	b.is(b.list(abandon-1, open(1), open(2)), "")
	b.is(b.list(abandon, open(1), open(2)), "abandoned 1 abandoned 2")
	b.is(b.list(abandon+look, open(1), open(2)), "")
	b.is(b.list(abandon+settle, ended(1), open(2)), "late 1")
	b.is(b.list(2*abandon, ended(1), open(2)), "")
	b.is(b.Resolve(ended(2), instant(2*abandon)), "late 2")
	b.is(b.Resolve(ended(2), instant(2*abandon)), "")
}

// The traces that the initial sync sees are classified by their own times, so that
// history is classified at once.
func TestInitialSync(t *testing.T) {
	at := func(start, end time.Duration) Row {
		r := Row{ID: num(1), Name: "1", Start: epoch.Add(start)}
		if end != 0 {
			r.End = epoch.Add(end)
		}
		return r
	}
	startless := func(r Row) Row { r.Start = time.Time{}; return r }
	for what, c := range map[string]struct {
		row     Row
		at      time.Duration // when it is counted
		outcome string
	}{
		"settled":                {at(-abandon, -settle), 0, "counted 1"},
		"settling":               {at(-abandon, -settle+time.Microsecond), time.Microsecond, "counted 1"},
		"ended in the future":    {at(-abandon, time.Hour), settle, "counted 1"},
		"ended before it began":  {at(time.Hour, -time.Hour), 0, "counted 1"},
		"without a start":        {startless(at(0, -settle)), 0, "counted 1"},
		"open for long":          {at(-abandon, 0), 0, "abandoned 1"},
		"open":                   {at(-abandon+time.Minute, 0), time.Minute, "abandoned 1"},
		"open without a start":   {startless(at(0, 0)), 0, "abandoned 1"},
		"opened in the future":   {at(24*time.Hour, 0), abandon, "abandoned 1"},
		"settling since a while": {at(-time.Minute, -settle/2), settle / 2, "counted 1"},
	} {
		t.Run(what, func(t *testing.T) {
			b := &book{New(Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: look}), t}
			if c.at == 0 {
				b.is(b.list(0, c.row), "seen 1 "+c.outcome)
			} else {
				b.is(b.list(0, c.row), "seen 1")
				b.EndInitialSync()
				b.is(b.list(c.at-1, c.row), "")
				b.is(b.list(c.at, c.row), c.outcome)
			}
			b.EndInitialSync()
			b.is(b.list(c.at+2*abandon, c.row), "")
		})
	}
	t.Run("ends later", func(t *testing.T) {
		b := &book{New(Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: look}), t}
		b.is(b.list(0, at(-time.Minute, 0)), "seen 1")
		if !b.IsInitialSync() {
			t.Error("the initial sync is over")
		}
		b.EndInitialSync()
		b.is(b.list(time.Minute, at(-time.Minute, 1)), "")
		b.is(b.list(time.Minute+settle-1, at(-time.Minute, 1)), "")
		b.is(b.list(time.Minute+settle, at(-time.Minute, 1)), "counted 1")
	})
}

// After the initial sync only our own clock counts, however wrong the clients' are.
func TestSkewedClocks(t *testing.T) {
	for _, skew := range []time.Duration{-20 * 24 * time.Hour, 20 * 24 * time.Hour} {
		b := newBook(t, 0)
		r := open(1)
		r.Start = epoch.Add(skew)
		b.is(b.list(0, r), "seen 1")
		b.is(b.list(abandon-1, r), "")
		r.End = epoch.Add(skew + time.Minute)
		b.is(b.list(abandon, r), "")
		b.is(b.list(abandon+settle-1, r), "")
		b.is(b.list(abandon+settle, r), "counted 1")
	}
}

// The times that are published are never later than when we first saw them.
func TestCappedTimes(t *testing.T) {
	b := newBook(t, 0)
	r := open(1)
	r.Start = epoch.Add(time.Hour)
	b.list(0, r)
	r.End = epoch.Add(2 * time.Hour)
	b.list(time.Minute, r)
	ev := b.list(time.Minute+settle, r)
	b.is(ev, "counted 1")
	if c := ev.Counted[0]; !c.Start.Equal(epoch) || !c.End.Equal(epoch.Add(time.Minute)) {
		t.Errorf("counted from %v to %v", c.Start, c.End)
	}

	b = newBook(t, 0)
	r.Start, r.End = epoch.Add(-time.Hour), epoch.Add(-time.Minute)
	b.list(0, r)
	if c := b.list(settle, r).Counted[0]; !c.Start.Equal(r.Start) || !c.End.Equal(r.End) {
		t.Errorf("counted from %v to %v, want them as they were", c.Start, c.End)
	}
	r.Start = time.Time{}
	r.ID = num(2)
	b.list(0, r)
	if c := b.list(settle, r).Counted[0]; !c.Start.IsZero() {
		t.Errorf("a start of %v where there was none", c.Start)
	}

	// The initial sync, too, saw it no earlier than it asked.
	b = &book{New(Config{SettleDelay: settle, AbandonAfter: abandon}), t}
	r.End = epoch.Add(time.Hour)
	b.list(0, r)
	if c := b.list(settle, r).Counted[0]; !c.End.Equal(epoch) {
		t.Errorf("counted with an end at %v", c.End)
	}
}

// An open trace is looked at the more rarely the older it is, and when it is to
// be abandoned.
func TestOldOpenTracesAreRecheckedLessOften(t *testing.T) {
	b := newBook(t, 0)
	b.list(0, open(1))
	for at := time.Duration(0); ; {
		want := min(at+max(look, at/8).Truncate(time.Second), abandon)
		got := b.due(1, at)
		if got < want || got > want+time.Second {
			t.Fatalf("seen after %v, due after %v, want %v", at, got, want)
		}
		at = got
		if at == abandon {
			break
		}
		b.list(at, open(1))
	}
}

// Those that only Opper can say something about come first, then list order.
func TestDueOrder(t *testing.T) {
	b := newBook(t, 0)
	b.list(0, open(3), open(1), open(4), open(2))
	b.list(look, open(1), open(4), open(3)) // 2 is not there
	want := []Due{{ID: num(2), Index: -1}, {ID: num(1), Index: 0}, {ID: num(4), Index: 1}, {ID: num(3), Index: 2}}
	if got := b.Due(epoch.Add(abandon), maxDue); !slices.Equal(got, want) {
		t.Errorf("due are %v, want %v", got, want)
	}
	if got := b.Due(epoch.Add(look), maxDue); !slices.Equal(got, want[:1]) {
		t.Errorf("due at once are %v, want %v", got, want[:1])
	}
}

func TestDelistedTracesCountAsLastSeen(t *testing.T) {
	b := newBook(t, 0)
	last := ended(2)
	last.Name = "last seen"
	b.list(0, open(3), ended(2), open(1))
	b.list(look, open(3), last, open(1))
	b.is(b.Delist(num(2)), "counted last seen")
	b.is(b.Delist(num(1)), "vanished 1")
	b.listed(3)
	b.is(b.Delist(num(2)), "")
	b.is(b.Delist(num(9)), "")
	// If they come back, the one that was counted makes no other count.
	b.is(b.list(abandon, open(3), ended(2), ended(1)), "seen 1 abandoned 3")
	b.is(b.list(2*abandon, open(3), ended(2), ended(1)), "counted 1")
	b.is(b.list(3*abandon, open(3), ended(2), ended(1)), "")
}

// A trace that is out of place while Opper does not say what became of it is
// counted as last seen, a while after it would have been abandoned.
func TestUnanswered(t *testing.T) {
	b := newBook(t, 0)
	b.list(0, open(2), ended(1))
	b.list(0)
	at := func(d time.Duration, want string) {
		t.Helper()
		b.is(b.Unanswered(num(1), epoch.Add(d)), strings.ReplaceAll(want, "N", "counted 1"))
		b.is(b.Unanswered(num(2), epoch.Add(d)), strings.ReplaceAll(want, "N", "abandoned 2"))
	}
	at(settle, "")
	for id, want := range map[int]time.Duration{1: settle + look, 2: settle + look} {
		if got := b.due(id, settle); got != want {
			t.Errorf("%d is due after %v, want %v", id, got, want)
		}
	}
	at(abandon, "") // Opper may only have trouble
	at(abandon+abandon/4-1, "")
	at(abandon+abandon/4, "N")
	at(2*abandon, "")
	b.is(b.Unanswered(num(9), epoch), "")

	// One that has long been due and could not be asked for is not decided by its
	// age, nor by what was not answered before the last answer.
	b = newBook(t, 0)
	b.list(0, open(2), ended(1))
	b.list(0)
	at(abandon/2, "")
	b.is(b.Resolve(ended(1), instant(settle/2)), "")
	b.is(b.Resolve(open(2), instant(settle/2)), "")
	at(3*abandon, "")
	at(3*abandon+abandon/4-1, "")
	at(3*abandon+abandon/4, "N")

	// An answer is as good as a look.
	b = newBook(t, 0)
	b.list(0, ended(1))
	b.list(0)
	b.is(b.Resolve(ended(1), instant(settle-1)), "")
	b.is(b.Resolve(ended(1), instant(settle)), "counted 1")
}

// A limited lookback leaves out what had ended before, settled or not, but not
// what ends later.
func TestInitialLookback(t *testing.T) {
	for _, c := range []struct {
		lookback time.Duration
		ended    time.Duration // before the initial sync saw it
		counted  int
	}{
		{0, time.Second, 0},
		{0, 10 * time.Hour, 0},
		{time.Hour, 2 * time.Hour, 0},
		{time.Hour, 59 * time.Minute, 1},
		{time.Hour, time.Second, 1},
	} {
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		l := New(Config{SettleDelay: 30 * time.Second, AbandonAfter: time.Hour, InitialLookback: &c.lookback})
		old := Row{ID: num(1), Start: now.Add(-11 * time.Hour), End: now.Add(-c.ended)}
		open := Row{ID: num(2), Start: now.Add(-time.Minute)}
		abandoned := Row{ID: num(3), Start: now.Add(-2 * time.Hour)}
		var ev Events
		see := func() {
			l.Observe(Run{Rows: []Row{old, open, abandoned}, AtStart: true, AtEnd: true, When: When{now, now}}, &ev)
		}
		see()
		l.EndInitialSync()
		now = now.Add(time.Minute)
		open.End = now
		see()
		now = now.Add(time.Minute)
		see()
		counted := map[ID]bool{}
		for _, one := range ev.Counted {
			counted[one.ID] = true
		}
		if len(counted) != c.counted+1 || !counted[open.ID] || counted[abandoned.ID] || len(ev.FirstSeen) != 3 {
			t.Errorf("lookback %s, ended %s before: counted %v", c.lookback, c.ended, counted)
		}
	}
}
