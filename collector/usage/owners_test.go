package usage

import (
	"errors"
	"testing"
	"time"

	"opper_exporter/opper"
)

// A project that is configured alone counts all, and the only Opper project of the first
// answer is its own.
func TestSingleProject(t *testing.T) {
	x, y, none := row(0, "X", "m", 1), row(0, "Y", "m", 2), row(0, "", "m", 4)
	for _, c := range []struct {
		what  string
		reads [][]opper.Usage
		want  string
	}{
		{"one", [][]opper.Usage{{x}}, "/m=1"},
		{"one, then another", [][]opper.Usage{{x}, {x, y}}, "/m=1 Y/m=2"},
		{"none, then one, then another", [][]opper.Usage{{}, {x}, {x, y}}, "/m=1 Y/m=2"},
		{"two", [][]opper.Usage{{x, y}}, "X/m=1 Y/m=2"},
		{"two, then one", [][]opper.Usage{{x, y}, {row(0, "Z", "m", 7)}}, "X/m=1 Y/m=2 Z/m=7"},
		{"one and null", [][]opper.Usage{{x, none}}, "/m=1 (none)/m=4"},
		{"one, then null", [][]opper.Usage{{x}, {x, none}}, "/m=1 (none)/m=4"},
		{"two and null", [][]opper.Usage{{x, y, none}}, "(none)/m=4 X/m=1 Y/m=2"},
		{"named as what we make up", [][]opper.Usage{{x, none, row(0, None, "m", 8)}}, `(none)/m=4 X/m=1 \(none)/m=8`},
		{"null", [][]opper.Usage{{none}}, "/m=4"},
		{"null, then whose it is", [][]opper.Usage{{none}, {row(0, "X", "m", 4)}, {row(0, "X", "m", 5)}}, "/m=5"},
		{"and again null", [][]opper.Usage{{none}, {row(0, "X", "m", 4)}, {row(0, "", "m", 5)}, {row(0, "X", "m", 6)}}, "/m=6"},
		{"one, then null only", [][]opper.Usage{{x}, {row(0, "", "m", 3)}, {row(0, "X", "m", 5)}}, "/m=5"},
		{"null, then partly whose", [][]opper.Usage{{none}, {x, row(0, "", "m", 3)}}, "/m=4"},
		{"null, then what it is the sum of", [][]opper.Usage{{none}, {x, row(0, "Y", "m", 3)}, {row(0, "X", "m", 2), row(0, "Y", "m", 5)}}, "/m=4 X/m=1 Y/m=2"},
	} {
		for _, restarts := range []bool{false, true} {
			f := newFixture(t, Config{})
			for _, rows := range c.reads {
				f.later(rows...)
				if restarts {
					f.restart()
				}
			}
			if got := f.costs(); got != c.want {
				t.Errorf("%s (restarts: %v): counted %s, want %s", c.what, restarts, got, c.want)
			}
		}
	}
}

// The project's own is the first that is found to be it, for good.
func TestOwnOpperProject(t *testing.T) {
	rows := []opper.Usage{row(0, "X", "m", 1), row(0, "Y", "m", 2), row(0, "Z", "m", 4)}
	f := newFixture(t, Config{})
	for n, own := range []string{"X", "Y", "Z"} {
		f.now = f.now.Add(time.Hour)
		if err := f.readOf(own, rows[:n+1]...); err != nil {
			t.Fatal(err)
		}
	}
	f.expect("/m=1 Y/m=2 Z/m=4")
	f = newFixture(t, Config{})
	if err := f.readOf("Y", rows...); err != nil {
		t.Fatal(err)
	}
	f.expect("/m=2 X/m=1 Z/m=4")
}

// What has only been seen of the last hours may have others beside it in earlier ones.
func TestNewOpperProjectIsReadInFull(t *testing.T) {
	all := []opper.Usage{row(-20, "", "m", 100), row(0, "X", "m", 1), row(-20, "X", "m", 10), row(-20, "Y", "m", 20)}
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "m", 1))
	f.mustRead(all...) // of the last two hours
	f.expectWindow("as all are known", noon.Add(-time.Hour))
	all = append(all, row(0, "Y", "m", 2), row(0, "", "m", 200))
	f.mustRead(all...)
	f.expect("/m=1")
	if !f.set.IsUndecided() {
		t.Error("all is decided")
	}
	f.expectWindow("once one is not", noon.Add(-48*time.Hour))
	f.mustRead(all...)
	f.expect("/m=11 (none)/m=300 Y/m=22")
	if f.set.IsUndecided() {
		t.Error("something is undecided")
	}
}

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
