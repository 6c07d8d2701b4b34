package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	settle  = 30 * time.Second
	abandon = time.Hour
	look    = 10 * time.Second
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// book is a ledger whose rows are read in no time.
type book struct {
	*Ledger
	t *testing.T
}

// newBook returns a ledger whose initial sync saw the ids from 1 to listed, all of
// them ended long ago.
func newBook(t *testing.T, listed int) *book {
	t.Helper()
	b := &book{New(Config{SettleDelay: settle, AbandonAfter: abandon, RecheckInterval: look}), t}
	var rows []Row
	for i := range listed {
		rows = append(rows, ended(i+1))
	}
	if got := len(b.list(0, rows...).Counted); got != listed {
		t.Fatalf("the initial sync counted %d of %d", got, listed)
	}
	b.EndInitialSync()
	return b
}

func open(n int) Row {
	return Row{ID: num(n), Name: fmt.Sprint(n), Start: epoch.Add(-time.Hour)}
}

func ended(n int) Row {
	r := open(n)
	r.End = epoch.Add(-30 * time.Minute)
	return r
}

func instant(after time.Duration) When {
	return When{Asked: epoch.Add(after), Read: epoch.Add(after)}
}

// The methods of a book return the events.

func (b *book) Observe(run Run) (ev Events) {
	b.Ledger.Observe(run, &ev)
	return ev
}

func (b *book) Resolve(row Row, when When) (ev Events) {
	b.Ledger.Resolve(row, when, &ev)
	return ev
}

func (b *book) Delist(id ID) (ev Events) {
	b.Ledger.Delist(id, &ev)
	return ev
}

func (b *book) Unanswered(id ID, now time.Time) (ev Events) {
	b.Ledger.Unanswered(id, now, &ev)
	return ev
}

// list observes the whole list at a time after the epoch.
func (b *book) list(after time.Duration, rows ...Row) Events {
	return b.Observe(Run{Rows: rows, AtStart: true, AtEnd: true, When: instant(after)})
}

// part observes rows from within the list.
func (b *book) part(after time.Duration, rows ...Row) Events {
	return b.Observe(Run{Rows: rows, When: instant(after)})
}

// is compares what happened with a short form of it, such as "seen 1 counted 2".
func (b *book) is(ev Events, want string) {
	b.t.Helper()
	var got []string
	for _, r := range ev.FirstSeen {
		got = append(got, "seen "+r.Name)
	}
	for _, c := range ev.Counted {
		word := "counted "
		if c.Abandoned {
			word = "abandoned "
		}
		got = append(got, word+c.Name)
	}
	for _, r := range ev.Vanished {
		got = append(got, "vanished "+r.Name)
	}
	for _, r := range ev.LateEnds {
		got = append(got, "late "+r.Name)
	}
	if ev.NoID > 0 {
		got = append(got, fmt.Sprint("no_id ", ev.NoID))
	}
	if ev.Gaps > 0 {
		got = append(got, fmt.Sprint("gaps ", ev.Gaps))
	}
	if s := strings.Join(got, " "); s != want {
		b.t.Errorf("got %q, want %q", s, want)
	}
}

// listed compares what is believed to be listed.
func (b *book) listed(want ...int) {
	b.t.Helper()
	ids := make([]ID, len(want))
	for i, n := range want {
		ids[i] = num(n)
	}
	if got := b.IDs(0, b.Listed()); !slices.Equal(got, ids) {
		b.t.Errorf("listed are %v, want %v", got, ids)
	}
}

// due returns the first time after from, in whole seconds, at which id is due.
func (b *book) due(id int, from time.Duration) time.Duration {
	for d := from; d < from+2*abandon; d += time.Second {
		for _, due := range b.Due(epoch.Add(d)) {
			if due.ID == num(id) {
				return d
			}
		}
	}
	return -1
}

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

func TestReopened(t *testing.T) {
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

func TestOpen(t *testing.T) {
	b := newBook(t, 1)
	b.list(0, open(4), open(3), ended(2), ended(1))
	var names []string
	see := func(want ...string) {
		t.Helper()
		names = nil
		b.Open(func(r Row) { names = append(names, r.Name) })
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("open are %v, want %v", names, want)
		}
	}
	see("3", "4")
	b.list(look, open(4), ended(3), ended(2), ended(1))
	see("4")
	b.list(abandon, open(4), ended(3), ended(2), ended(1))
	see()
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
func TestLookSchedule(t *testing.T) {
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
	if got := b.Due(epoch.Add(abandon)); !slices.Equal(got, want) {
		t.Errorf("due are %v, want %v", got, want)
	}
	if got := b.Due(epoch.Add(look)); !slices.Equal(got, want[:1]) {
		t.Errorf("due at once are %v, want %v", got, want[:1])
	}
}

func TestGone(t *testing.T) {
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
	// Neither makes a count if it comes back.
	b.is(b.list(abandon, open(3), ended(2), ended(1)), "abandoned 3")
	b.is(b.list(2*abandon, open(3), ended(2), ended(1)), "")
}

// A trace that has left its place while Opper does not say what became of it is
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

	// One that has long been due, as nobody could ask before, is not decided by its
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

func TestMovedRows(t *testing.T) {
	b := newBook(t, 6)
	b.listed(1, 2, 3, 4, 5, 6)
	b.is(b.part(0, ended(3), ended(2), ended(4)), "")
	b.listed(1, 3, 2, 4, 5, 6)
	b.is(b.list(0, ended(6), ended(1), ended(3), ended(2), ended(4), ended(5)), "")
	b.listed(6, 1, 3, 2, 4, 5)
	if b.Index(num(3)) != 2 || b.Index(num(9)) != -1 {
		t.Error("an index is not where the id stands")
	}

	// A pending trace that moved is not lost.
	b.is(b.list(0, open(7), ended(6), ended(1)), "seen 7")
	b.is(b.list(look, ended(6), open(7), ended(1)), "")
	if got := b.Due(epoch.Add(2 * look)); len(got) != 1 || got[0].Index != 1 {
		t.Errorf("due are %v", got)
	}
}

func TestInsertInTheMiddle(t *testing.T) {
	b := newBook(t, 4)
	b.is(b.part(0, ended(2), ended(7), ended(8), ended(3)), "seen 7 seen 8")
	b.listed(1, 2, 7, 8, 3, 4)
	b.is(b.Observe(Run{Rows: []Row{ended(9), ended(1)}, AtStart: true, When: instant(0)}), "seen 9")
	b.is(b.Observe(Run{Rows: []Row{ended(4), ended(10)}, AtEnd: true, When: instant(0)}), "seen 10")
	b.listed(9, 1, 2, 7, 8, 3, 4, 10)

	// What stood between two rows that are neighbours now has left.
	b.is(b.part(0, ended(2), ended(8)), "")
	b.listed(9, 1, 2, 8, 3, 4, 10)
	if got := b.Due(epoch); len(got) != 1 || got[0].ID != num(7) || got[0].Index != -1 {
		t.Errorf("due are %v", got)
	}
}

// Rows that nothing ties to the list may be of another one: they are not taken in.
func TestNowhere(t *testing.T) {
	b := newBook(t, 3)
	unread, noID := Row{Kind: Unreadable}, Row{ID: KeyWithoutID("x", epoch), Kind: NoID}
	b.is(b.part(0, ended(8), unread, noID), "")
	b.is(b.Observe(Run{Rows: []Row{ended(8)}, AtEnd: true, When: instant(0)}), "")
	b.listed(1, 2, 3)
	b.is(b.part(0, ended(2), ended(8), unread, noID, ended(3)), "seen 8 no_id 1 gaps 1")
	if got := b.Listed(); got != 6 {
		t.Errorf("%d are listed", got)
	}
}

// What is ranked outside of the ends of the list is no longer listed, and still
// known.
func TestUnlisting(t *testing.T) {
	b := newBook(t, 6)
	b.is(b.Observe(Run{Rows: []Row{ended(4), ended(5)}, AtEnd: true, When: instant(0)}), "")
	b.listed(1, 2, 3, 4, 5)
	b.is(b.Observe(Run{Rows: []Row{ended(2), ended(3)}, AtStart: true, When: instant(0)}), "")
	b.listed(2, 3, 4, 5)
	b.is(b.list(0, ended(3)), "")
	b.listed(3)
	for n := 1; n <= 6; n++ {
		if !b.HasSeen(num(n)) {
			t.Errorf("%d is not known", n)
		}
	}
	b.is(b.list(0, ended(1), ended(2), ended(3)), "")
	b.listed(1, 2, 3)

	// An empty page within the list says nothing; an empty list does.
	b.is(b.part(0), "")
	b.is(b.Observe(Run{AtEnd: true, When: instant(0)}), "")
	b.listed(1, 2, 3)
	b.is(b.list(0), "")
	b.listed()
	b.is(b.list(0, ended(1), ended(2)), "")
}

func TestForgetting(t *testing.T) {
	const day = 24 * time.Hour
	complete := func(b *book, after time.Duration) { b.EndFullScan(epoch.Add(after)) }
	b := newBook(t, 2)
	complete(b, 0) // it saw both
	b.list(0, ended(1))
	for _, after := range []time.Duration{time.Hour, 2 * time.Hour, time.Hour + day - 1} {
		complete(b, after)
		if !b.HasSeen(num(2)) {
			t.Fatalf("forgotten after %v", after)
		}
	}
	complete(b, time.Hour+day)
	if b.HasSeen(num(2)) || !b.HasSeen(num(1)) {
		t.Error("what is delisted is known, or what is listed is not")
	}

	// One that came back in between starts again.
	b.list(0)
	complete(b, 0)
	b.list(day, ended(1))
	b.list(day)
	complete(b, day)
	if !b.HasSeen(num(1)) {
		t.Error("forgotten after one full scan")
	}
	complete(b, 2*day)
	if b.HasSeen(num(1)) {
		t.Error("known after two full scans")
	}

	// A pending trace is not forgotten, however often it is missed.
	b.list(0, open(3))
	b.list(0)
	complete(b, 0)
	complete(b, 10*day)
	if !b.HasSeen(num(3)) {
		t.Error("a pending trace is forgotten")
	}
}

// Rows that can't be read keep their place, and each stretch of them is one
// gap, once.
func TestUnreadableRows(t *testing.T) {
	unread := Row{Kind: Unreadable}
	b := newBook(t, 0)
	b.is(b.list(0, ended(1), unread, unread, ended(2), unread, ended(3)), "seen 1 seen 2 seen 3 gaps 2")
	b.is(b.list(0, ended(1), unread, unread, ended(2), unread, ended(3)), "")
	b.is(b.list(0, ended(4), ended(1), unread, unread, ended(2), unread, ended(3)), "seen 4")
	b.is(b.part(0, ended(1), unread, unread, ended(2)), "")
	b.is(b.part(0, unread, ended(2), unread), "")
	if b.Index(num(3)) != 6 || b.Listed() != 7 {
		t.Errorf("3 stands at %d of %d", b.Index(num(3)), b.Listed())
	}
	for from, want := range map[int]int{-1: -1, 0: 2, 2: 2, 3: 3, 4: 5, 6: -1} {
		if got := b.NextUnreadable(from, 3); got != want {
			t.Errorf("the first unreadable row from %d on is %d, want %d", from, got, want)
		}
	}
	// It can be read at last.
	b.is(b.part(0, ended(2), ended(5), ended(3)), "seen 5")
	if b.NextUnreadable(4, 3) != -1 || b.Listed() != 7 {
		t.Errorf("an unreadable row stands at %d of %d", b.NextUnreadable(4, 3), b.Listed())
	}
	// They take a place and nothing else.
	b.list(settle, ended(1), unread)
	b.list(settle, ended(1))
	b.EndFullScan(epoch)
	if due := b.Due(epoch.Add(abandon)); slices.ContainsFunc(due, func(d Due) bool { return d.ID.IsUnreadable() }) {
		t.Error("an unreadable row is due")
	}
}

func TestRowsWithoutID(t *testing.T) {
	x, y := Row{ID: KeyWithoutID("x", epoch), Kind: NoID}, Row{ID: KeyWithoutID("x", epoch.Add(1)), Kind: NoID}
	b := newBook(t, 0)
	b.is(b.list(0, ended(1), x, y), "seen 1 no_id 2")
	b.is(b.list(settle, ended(1), x, y), "counted 1")
	b.is(b.list(settle, x), "")
	b.is(b.list(settle, ended(1), y, x), "")
	if got := b.Due(epoch.Add(2 * abandon)); len(got) != 0 {
		t.Errorf("due are %v", got)
	}
}

// A row that stands twice on a page is one, as it was last read.
func TestDuplicates(t *testing.T) {
	b := newBook(t, 0)
	again := ended(1)
	again.Name = "again"
	b.is(b.list(0, ended(1), ended(2), again, ended(3)), "seen again seen 2 seen 3")
	b.listed(1, 2, 3)
	b.is(b.list(settle, ended(1), ended(1), ended(2), ended(3), ended(2)), "counted 1 counted 2 counted 3")
	b.listed(1, 2, 3)
}

// rising finds as many as can be found, and they do rise.
func TestRising(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 3000 {
		at := rng.Perm(1 + rng.IntN(10))
		for i := range at {
			if rng.IntN(4) == 0 {
				at[i] = -1
			}
		}
		most := 0
		for subset := range 1 << len(at) {
			last, n := -1, 0
			for i, v := range at {
				if subset>>i&1 == 0 {
					continue
				}
				if v <= last { // also if it is not listed
					n = -1
					break
				}
				last = v
				n++
			}
			most = max(most, n)
		}
		got := rising(at)
		for k, i := range got {
			if at[i] < 0 || k > 0 && (i <= got[k-1] || at[i] <= at[got[k-1]]) {
				t.Fatalf("rising(%v) = %v", at, got)
			}
		}
		if len(got) != most {
			t.Fatalf("rising(%v) = %v, but %d can be found", at, got, most)
		}
	}
}

func TestKeyOf(t *testing.T) {
	const id = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	if got := KeyOf(id).String(); got != id {
		t.Errorf("key %s of %s", got, id)
	}
	if KeyOf(strings.ToUpper(id)) != KeyOf(id) {
		t.Error("the case of a UUID matters")
	}
	seen := map[ID]string{}
	for _, s := range []string{
		id, "", "x", id[:35], id + "0", strings.ReplaceAll(id, "-", ""), strings.Replace(id, "a", "g", 1),
		"3c90c3cc-0d44-4b50-8888-8dd2573605-a", "3c90c3cc0d44-4b50--8888-8dd25736052a",
	} {
		if other, ok := seen[KeyOf(s)]; ok {
			t.Errorf("%q and %q have the same key", s, other)
		}
		seen[KeyOf(s)] = s
	}
	a, b := KeyWithoutID("x", epoch), KeyWithoutID("x", epoch.In(time.FixedZone("", 3600)))
	if a != b || a == KeyWithoutID("y", epoch) || a == KeyWithoutID("x", epoch.Add(1)) {
		t.Error("a row without an id is not known by its name and start")
	}
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
