package ledger

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

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

	// A pending trace that moved is not delisted.
	b.is(b.list(0, open(7), ended(6), ended(1)), "seen 7")
	b.is(b.list(look, ended(6), open(7), ended(1)), "")
	if got := b.Due(epoch.Add(2*look), maxDue); len(got) != 1 || got[0].Index != 1 {
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

	// What stood between two rows that are neighbours now is delisted.
	b.is(b.part(0, ended(2), ended(8)), "")
	b.listed(9, 1, 2, 8, 3, 4, 10)
	if got := b.Due(epoch, maxDue); len(got) != 1 || got[0].ID != num(7) || got[0].Index != -1 {
		t.Errorf("due are %v", got)
	}
}

// A row that stands beside a page has rather moved there than all before it been delisted.
func TestStrayRowDelistsNothing(t *testing.T) {
	rows := func(from, to int) (rows []Row) {
		for n := from; n <= to; n++ {
			rows = append(rows, ended(n))
		}
		return rows
	}
	numbers := func(from, to int) (all []int) {
		for n := from; n <= to; n++ {
			all = append(all, n)
		}
		return all
	}
	b := newBook(t, 60)
	b.is(b.part(0, append(rows(10, 30), ended(55), ended(59))...), "")
	b.listed(slices.Concat(numbers(1, 30), []int{55, 59}, numbers(31, 54), numbers(56, 58), numbers(60, 60))...)

	// Where they were not moved, the next page shows it.
	b = newBook(t, 60)
	b.is(b.part(0, append(rows(10, 30), ended(50))...), "")
	b.is(b.part(0, rows(50, 55)...), "")
	b.listed(slices.Concat(numbers(1, 30), numbers(50, 60))...)

	// Three have not.
	b = newBook(t, 60)
	b.is(b.part(0, append(rows(10, 20), rows(50, 52)...)...), "")
	b.listed(slices.Concat(numbers(1, 20), numbers(50, 60))...)
}

// Rows that nothing ties to the list may be of another one: they are not taken in.
func TestUntiedRowsChangeNothing(t *testing.T) {
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
func TestRowsBehindTheEndAreDelisted(t *testing.T) {
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

func TestIDsAreForgottenAfterTwoFullScans(t *testing.T) {
	const day = 24 * time.Hour
	complete := func(b *book, after time.Duration) { b.EndFullScan(epoch.Add(after), epoch.Add(after)) }
	b := newBook(t, 2)
	complete(b, 0) // it saw both
	b.list(0, ended(1))
	for _, after := range []time.Duration{time.Hour, 2 * time.Hour, time.Hour + day - 1} {
		complete(b, after)
		if !b.HasSeen(num(2)) {
			t.Fatalf("forgotten after %v", after)
		}
	}
	b.EndFullScan(epoch.Add(time.Hour+day-1), epoch.Add(3*day))
	if !b.HasSeen(num(2)) {
		t.Error("forgotten after a full scan that began earlier")
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

// What was counted stays so when it is delisted, and an abandoned trace is no longer one
// when its end was seen.
func TestCountedTracesAreKnown(t *testing.T) {
	b := newBook(t, 2)
	b.list(0, ended(1), open(3), open(4))
	b.list(abandon, ended(1), open(3), open(4))
	b.list(abandon, ended(1), open(3), ended(4), open(5))
	for n, want := range map[int][2]bool{1: {true, false}, 2: {true, false}, 3: {true, true}, 4: {true, false}, 5: {false, false}, 6: {false, false}} {
		if counted, abandoned := b.HasCounted(num(n)); counted != want[0] || abandoned != want[1] {
			t.Errorf("%d: counted %t, abandoned %t, want %v", n, counted, abandoned, want)
		}
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
		maximum := 0
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
			maximum = max(maximum, n)
		}
		got := rising(at)
		for k, i := range got {
			if at[i] < 0 || k > 0 && (i <= got[k-1] || at[i] <= at[got[k-1]]) {
				t.Fatalf("rising(%v) = %v", at, got)
			}
		}
		if len(got) != maximum {
			t.Fatalf("rising(%v) = %v, but %d can be found", at, got, maximum)
		}
	}
}
