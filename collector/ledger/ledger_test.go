package ledger

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	settle  = 30 * time.Second
	abandon = time.Hour
	look    = 10 * time.Second
	maxDue  = 1000
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
		for _, due := range b.Due(epoch.Add(d), maxDue) {
			if due.ID == num(id) {
				return d
			}
		}
	}
	return -1
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
