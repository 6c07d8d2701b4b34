package ledger

import (
	"slices"
	"testing"
)

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
		t.Errorf("3 is at %d of %d", b.Index(num(3)), b.Listed())
	}
	for from, want := range map[int]int{-1: -1, 0: 2, 2: 2, 3: 3, 4: 5, 6: -1} {
		if got := b.NextUnreadable(from, 3); got != want {
			t.Errorf("the first unreadable row from %d on is %d, want %d", from, got, want)
		}
	}
	// It can be read at last.
	b.is(b.part(0, ended(2), ended(5), ended(3)), "seen 5")
	if b.NextUnreadable(4, 3) != -1 || b.Listed() != 7 {
		t.Errorf("an unreadable row is at %d of %d", b.NextUnreadable(4, 3), b.Listed())
	}
	// They take a place and nothing else.
	b.list(settle, ended(1), unread)
	b.list(settle, ended(1))
	b.EndFullScan(epoch, epoch)
	if due := b.Due(epoch.Add(abandon), maxDue); slices.ContainsFunc(due, func(d Due) bool { return d.ID.IsUnreadable() }) {
		t.Error("an unreadable row is due")
	}
}

// A row that was read before and cannot be read now is no gap where it stood between the
// same neighbours. Elsewhere another one may stand there.
func TestKnownRowBecomesUnreadable(t *testing.T) {
	unread := Row{Kind: Unreadable}
	for name, c := range map[string]struct {
		rows []Row
		want string
	}{
		"one":                  {[]Row{ended(1), unread, ended(3), ended(4), ended(5)}, ""},
		"a stretch":            {[]Row{ended(1), unread, unread, ended(4), ended(5)}, ""},
		"behind a new one":     {[]Row{ended(6), ended(1), unread, ended(3), ended(4), ended(5)}, "seen 6"},
		"more than there were": {[]Row{ended(1), unread, unread, ended(3), ended(4), ended(5)}, "gaps 1"},
		"fewer":                {[]Row{ended(1), unread, ended(4), ended(5)}, "gaps 1"},
		"one that has moved":   {[]Row{ended(2), ended(1), unread, ended(3), ended(4), ended(5)}, "gaps 1"},
		"beside a new one":     {[]Row{ended(1), ended(6), unread, ended(3), ended(4), ended(5)}, "seen 6 gaps 1"},
		"at the start":         {[]Row{unread, ended(2), ended(3), ended(4), ended(5)}, "gaps 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t, 0)
			b.list(0, ended(1), ended(2), ended(3), ended(4), ended(5))
			b.is(b.list(0, c.rows...), c.want)
			b.is(b.list(0, c.rows...), "")
			if b.Listed() != len(c.rows) {
				t.Errorf("%d listed", b.Listed())
			}
		})
	}
}

func TestRowsWithoutID(t *testing.T) {
	x, y := Row{ID: KeyWithoutID("x", epoch), Kind: NoID}, Row{ID: KeyWithoutID("x", epoch.Add(1)), Kind: NoID}
	b := newBook(t, 0)
	b.is(b.list(0, ended(1), x, y), "seen 1 no_id 2")
	b.is(b.list(settle, ended(1), x, y), "counted 1")
	b.is(b.list(settle, x), "")
	b.is(b.list(settle, ended(1), y, x), "")
	if got := b.Due(epoch.Add(2*abandon), maxDue); len(got) != 0 {
		t.Errorf("due are %v", got)
	}
}
