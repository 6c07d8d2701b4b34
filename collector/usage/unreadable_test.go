package usage

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"opper_exporter/opper"
)

// unreadable is a row whose cost cannot be read.
func unreadable(u opper.Usage) opper.Usage {
	u.Cost, u.Unreadable = 0, [4]bool{Cost: true}
	return u
}

// A row that cannot be read is counted as missing once, also after a restart; the others
// are counted, and it is counted when it can be read.
func TestUnreadableRow(t *testing.T) {
	f := newFixture(t, Config{})
	expect := func(costs string, incomplete uint64) {
		t.Helper()
		f.expect(costs)
		if f.set.Incomplete != incomplete || f.set.Corrections != 0 {
			t.Errorf("%d incomplete, want %d; %d corrections", f.set.Incomplete, incomplete, f.set.Corrections)
		}
	}
	x, y, z := row(0, "X", "x", 5), row(0, "X", "y", 3), row(0, "X", "z", 1)
	f.mustRead(x, unreadable(y))
	expect("/x=5 /y=0", 1)
	f.mustRead(x, unreadable(y))
	expect("/x=5 /y=0", 1)
	f.restart()
	f.mustRead(x, unreadable(y), z)
	expect("/x=5 /y=0 /z=1", 1)
	f.mustRead(unreadable(x), y, z)
	expect("/x=5 /y=3 /z=1", 2)
	x.Cost = 8
	f.later(x, y, z)
	expect("/x=8 /y=3 /z=1", 2)
	// What is unreadable beside another row of the same model may be negative.
	more := row(0, "X", "x", 2)
	f.mustRead(x, more, unreadable(row(0, "X", "x", 9)), y, z)
	expect("/x=8 /y=3 /z=1", 3)
	f.mustRead(x, more, opper.Usage{Bucket: noon, Project: "X", Model: "x", Cost: -1}, y, z)
	expect("/x=9 /y=3 /z=1", 3)
}

// Where rows of an hour are missing, those that are there are counted and the others did
// not fall: once all are there again, nothing is missing and nothing doubled.
func TestHourThatLacksRows(t *testing.T) {
	f := newFixture(t, Config{})
	part := func(rows ...opper.Usage) []opper.Usage { return new(Pages).part(rows) }
	expect := func(costs string, incomplete, corrections uint64) {
		t.Helper()
		f.expect(costs)
		if f.set.Incomplete != incomplete || f.set.Corrections != corrections {
			t.Errorf("%d incomplete and %d corrections, want %d and %d", f.set.Incomplete, f.set.Corrections, incomplete, corrections)
		}
	}
	x, y, old := row(0, "X", "x", 5), row(0, "X", "y", 3), row(-1, "X", "x", 7)
	f.mustRead(append(part(x), old)...)
	expect("/x=12", 1, 0)
	f.restart()
	f.mustRead(append(part(y), old)...) // another part
	expect("/x=12 /y=3", 2, 0)
	f.restart()
	f.mustRead(append(part(row(0, "X", "x", 4)), old)...) // less of it
	expect("/x=12 /y=3", 2, 0)
	f.mustRead(x, y, old)
	expect("/x=12 /y=3", 2, 0)
	f.mustRead(x, row(0, "X", "y", 2), old)
	expect("/x=12 /y=3", 2, 1)
	f.mustRead(append(part(x), old)...)
	expect("/x=12 /y=3", 4, 1)
	f.mustRead(row(0, "X", "x", 6), row(0, "X", "y", 2), old)
	expect("/x=13 /y=3", 4, 1)
}

// readableTotals has unreadable rows, whose hours have readable totals.
type readableTotals struct {
	cutSource
	totals cutSource
}

func (s *readableTotals) Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	if len(q.GroupBy) == 0 {
		return s.totals.Usage(ctx, q)
	}
	return s.cutSource.Usage(ctx, q)
}

// Rows that cannot be read are no reason to read an hour again, or not at all. Where none
// can be read, usage has another shape.
func TestReadOfUnreadableRows(t *testing.T) {
	var rows, whole []opper.Usage
	for m := range 50 {
		u := row(m/20, "X", fmt.Sprint("m", m), 1)
		whole = append(whole, u)
		if m%10 == 0 {
			u = unreadable(u)
		}
		rows = append(rows, u)
	}
	window := func(src Source) ([]opper.Usage, error) {
		return new(Pages).Read(t.Context(), src, noon, noon.Add(3*time.Hour), opper.GroupModel)
	}
	for _, hasCalls := range []bool{true, false} {
		for i := range rows {
			if u := &rows[i]; u.IsUnreadable() && !hasCalls {
				u.Calls, u.Unreadable[Calls] = 0, true
			}
		}
		if got, err := window(&readableTotals{cutSource{rows: rows[:20]}, cutSource{rows: whole[:20]}}); err != nil || len(got) != 20 {
			t.Errorf("read %d rows of %d, %v", len(got), len(rows), err)
		}
	}
	if got, err := window(&cutSource{rows: rows, cut: 30}); err != nil || len(got) != len(rows) {
		t.Errorf("cut: read %d rows of %d, %v", len(got), len(rows), err)
	}
	all := []opper.Usage{unreadable(row(0, "X", "m", 1)), unreadable(row(0, "X", "n", 1))}
	if got, err := window(&cutSource{rows: all}); !errors.Is(err, errUnreadable) {
		t.Errorf("none can be read: read %d rows, %v", len(got), err)
	}
}
