package usage

import (
	"errors"
	"testing"
	"time"

	"opper_exporter/opper"
)

// Rows without an Opper project may be the sum of all, of which each was counted.
func TestUngroupedSum(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "m", 1), row(0, "Y", "m", 2), row(-2, "", "m", 4))
	f.mustRead(row(0, "X", "m", 1), row(0, "Y", "m", 2))
	if err := f.read(row(0, "", "m", 3)); !errors.Is(err, errUngrouped) {
		t.Errorf("error is %v", err)
	}
	f.expect("(none)/m=4 X/m=1 Y/m=2")
	f.expectWindow("after the error", noon.Add(-48*time.Hour))
	f.mustRead(row(0, "X", "m", 2), row(0, "Y", "m", 2), row(-2, "", "m", 4))
	f.expect("(none)/m=4 X/m=2 Y/m=2")
	// Where others have had nothing, the hours before show that it is not their sum.
	f.now = noon.Add(10 * time.Hour)
	f.mustRead(row(0, "X", "m", 2), row(0, "Y", "m", 2), row(-2, "", "m", 4), row(8, "", "m", 1))
	f.mustRead(row(8, "", "m", 2))
	f.expect("(none)/m=5 X/m=2 Y/m=2")
	f.mustRead(row(0, "X", "m", 2), row(0, "Y", "m", 2), row(-2, "", "m", 4), row(8, "", "m", 2))
	f.expect("(none)/m=6 X/m=2 Y/m=2")
}

// An answer without Opper projects is the sum of all also where the others have used nothing
// lately, or have rows of their own beside it at other times.
func TestSumOfAllIsNotCountedAgain(t *testing.T) {
	f := newFixture(t, Config{})
	readOwn := func(rows ...opper.Usage) {
		t.Helper()
		if err := f.readOf("X", rows...); err != nil {
			t.Fatal(err)
		}
	}
	readOwn(row(0, "X", "m", 3), row(0, "Y", "m", 2))
	f.now = f.now.Add(72 * time.Hour)
	readOwn(row(72, "X", "m", 5))
	f.expect("/m=8 Y/m=2")
	refused := func(rows ...opper.Usage) {
		t.Helper()
		want := f.costs()
		for range 3 {
			if err := f.read(rows...); err != nil && !errors.Is(err, errUngrouped) {
				t.Fatal(err)
			}
			f.expect(want)
		}
	}
	refused(row(72, "", "m", 6))
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7))
	f.expect("/m=8 (none)/m=7 Y/m=3")
	f.now = f.now.Add(5 * time.Hour)
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7))
	refused(row(72, "", "m", 13), row(77, "", "m", 1))
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7), row(77, "Y", "m", 1))
	f.expect("/m=8 (none)/m=7 Y/m=4")
}

// Nothing but the refusal of the group shows that an answer is the sum of all where only
// rows without an Opper project were seen for two days.
func TestSumOfAllAfterIdleDays(t *testing.T) {
	for _, c := range []struct {
		old  []opper.Usage
		want string
		err  error
	}{
		{[]opper.Usage{row(0, "X", "m", 3), row(0, "Y", "m", 1), row(0, "", "m", 2)}, "(none)/m=3 X/m=3 Y/m=1", errUngrouped},
		{[]opper.Usage{row(0, "X", "m", 3), row(0, "", "m", 2)}, "/m=12", nil}, // all is the project's own
	} {
		f := newFixture(t, Config{})
		f.mustRead(c.old...)
		f.now = f.now.Add(50 * time.Hour)
		f.mustRead(append(c.old, row(50, "", "m", 1))...)
		f.now = f.now.Add(time.Hour)
		from, _ := f.set.Window(f.now)
		if err := f.set.Apply([]opper.Usage{row(50, "", "m", 7)}, from, false, Proof{Own: "X"}, f.now); !errors.Is(err, c.err) {
			t.Errorf("error is %v, want %v", err, c.err)
		}
		f.expect(c.want)
	}
}
