package usage

import (
	"slices"
	"testing"
	"time"

	"opper_exporter/opper"
)

// A model without calls gives up its place and its series, and starts zero-first if it
// returns.
func TestModelExpiry(t *testing.T) {
	f := newFixture(t, Config{MaxModels: 2, ModelExpiry: 24 * time.Hour})
	f.mustRead(row(0, "X", "a", 1), row(0, "X", "b", 1), row(0, "Y", "b", 1))
	f.mustRead(row(0, "X", "a", 2), row(0, "X", "b", 2), row(0, "Y", "b", 1), row(0, "X", "c", 1))
	f.expect("X/(other)=1 X/a=2 X/b=2 Y/b=1")
	for h := 1; h <= 24; h++ { // all of it is read again and again
		f.later(row(0, "X", "a", 2), row(0, "X", "b", 2), row(0, "Y", "b", 1), row(0, "X", "c", 1), row(h, "X", "b", 1))
	}
	f.expect("X/(other)=1 X/a=2 X/b=26 Y/b=1")
	f.later(row(0, "X", "a", 2), row(0, "X", "b", 2), row(0, "Y", "b", 1), row(0, "X", "c", 1), row(25, "X", "b", 1))
	f.expect("X/(other)=1 X/b=27")
	if keys := f.commit(); len(keys) > 0 {
		t.Errorf("put %q", keys)
	}
	for range 2 {
		// X/a=2, Y/b=1
		if sum := f.set.Expired(); sum.Exposed()[Cost] != 3 || !sum.Created.Before(noon.Add(time.Hour)) {
			t.Errorf("expired are %+v", sum)
		}
		f.restart()
	}
	f.expect("X/(other)=1 X/b=27")
	// Another one has the place now, with what it counts from now on.
	f.later(row(0, "X", "a", 3), row(0, "X", "b", 2), row(0, "Y", "b", 1), row(0, "X", "c", 1), row(25, "X", "b", 1))
	m := f.set.Models()[1]
	if m.Label != "a" || !m.zeroPending || m.Exposed() != (Amounts{}) || !m.Created.After(noon.Add(24*time.Hour)) {
		t.Errorf("it returned as %+v", m)
	}
	f.expect("X/(other)=1 X/a=1 X/b=27")
	f.later(row(0, "X", "c", 9), row(26, "X", "c", 1), row(0, "Y", "b", 2))
	f.expect("X/(other)=10 X/a=1 X/b=27 Y/b=1")

	// What no scraper has read stays.
	f = newFixture(t, Config{MaxModels: 3, ModelExpiry: time.Hour})
	f.mustRead(row(0, "X", "a", 1))
	f.mustRead(row(0, "X", "b", 1))
	f.now = noon.Add(20 * time.Hour)
	f.mustRead(row(0, "X", "a", 1), row(0, "X", "b", 1), row(20, "X", "c", 1))
	var labels []string
	for _, m := range f.set.Models() {
		labels = append(labels, m.Label)
	}
	if !slices.Equal(labels, []string{"b", "c"}) {
		t.Errorf("models are %q", labels)
	}
}

// An expiry that could not be committed is none if the model returns before it is: its
// series are still exposed.
func TestModelReturnsBeforeItsExpiryIsCommitted(t *testing.T) {
	f := newFixture(t, Config{MaxModels: 2, ModelExpiry: time.Hour})
	f.mustRead(row(0, "X", "a", 1), row(0, "X", "b", 1))
	rows := []opper.Usage{row(0, "X", "a", 1), row(0, "X", "b", 1), row(5, "X", "b", 1)}
	f.now = noon.Add(5 * time.Hour)
	apply := func() {
		from, _ := f.set.Window(f.now)
		if err := f.set.Apply(rows, from, true, Proof{}, f.now); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	f.set.Changes(func(string, []byte) {})
	if n := len(f.set.Models()); n != 1 {
		t.Errorf("%d models", n)
	}
	rows[0] = row(0, "X", "a", 4)
	f.now = f.now.Add(time.Hour)
	apply()
	f.expect("/a=4 /b=2")
	f.commit()
	f.restart()
	f.expect("/a=4 /b=2")
	if sum := f.set.Expired(); sum.Exposed() != (Amounts{}) {
		t.Errorf("expired are %+v", sum)
	}
}
