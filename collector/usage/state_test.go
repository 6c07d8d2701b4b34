package usage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
)

// A read without changes writes nothing, and one of the present hour what has changed.
func TestChanges(t *testing.T) {
	rows := []opper.Usage{row(-100, "X", "m", 1), row(-5, "X", "m", 1), row(0, "X", "m", 1)}
	f := newFixture(t, Config{})
	apply := func() []string {
		from, _ := f.set.Window(f.now)
		f.now = f.now.Add(10 * time.Minute)
		if err := f.set.Apply(rows, from, true, Proof{}, f.now); err != nil {
			t.Fatal(err)
		}
		return f.commit()
	}
	hour := func(h int) string { return fmt.Sprintf("hour/%d", hourOf(noon)+int64(h)) }
	if keys := apply(); len(keys) != 4 {
		t.Errorf("first: put %q", keys)
	}
	if f.entries[hour(-100)] != nil {
		t.Error("an hour that is final is stored")
	}
	for range 12 {
		if keys := apply(); len(keys) > 0 {
			t.Errorf("no changes: put %q", keys)
		}
	}
	f.restart()
	if keys := append(apply(), apply()...); len(keys) > 0 {
		t.Errorf("no changes since a restart: put %q", keys)
	}
	rows[2].Cost++
	if keys := apply(); !slices.Equal(keys, []string{keyCounters, hour(0)}) {
		t.Errorf("changes: put %q", keys)
	}
}

func TestRestoreDamaged(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "m", 1))
	for key := range f.entries {
		for name, change := range map[string]func(map[string][]byte){
			"missing": func(e map[string][]byte) { delete(e, key) },
			"cut":     func(e map[string][]byte) { e[key] = e[key][:len(e[key])-1] },
			"longer":  func(e map[string][]byte) { e[key] = append(slices.Clone(e[key]), 0) },
			"other":   func(e map[string][]byte) { e[key+"x"] = e[key] },
		} {
			entries := maps.Clone(f.entries)
			change(entries)
			_, err := Restore(f.cfg, entries)
			if name == "missing" && strings.HasPrefix(key, keyHour) {
				continue // the store knows which entries there are
			}
			if err == nil {
				t.Errorf("%s: %s: no error", key, name)
			}
		}
	}
	if set, err := Restore(f.cfg, nil); err != nil || len(set.Models()) > 0 {
		t.Errorf("without entries: %v", err)
	}
}
