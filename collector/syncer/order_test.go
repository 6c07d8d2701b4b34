package syncer

import (
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	at := func(minutes ...int) []time.Time {
		var starts []time.Time
		for _, m := range minutes {
			starts = append(starts, time.Unix(int64(60*m), 0))
		}
		return starts
	}
	for name, c := range map[string]struct {
		starts             []time.Time
		sorted, newestLast bool
	}{
		"newest first":    {at(9, 8, 7, 5, 6, 4, 3, 2, 1), true, false},
		"newest last":     {at(1, 2, 3, 4, 6, 5, 7, 8, 9), true, true},
		"neither":         {at(5, 1, 9, 2, 8, 3, 7, 4, 6), false, false},
		"too few":         {at(1, 2, 3), false, false},
		"no start":        {make([]time.Time, 20), false, false},
		"few have starts": {append(at(9, 8, 7, 6, 5, 4, 3, 2), make([]time.Time, 9)...), true, false},
	} {
		if sorted, newestLast := Order(c.starts); sorted != c.sorted || sorted && newestLast != c.newestLast {
			t.Errorf("%s: sorted %t, newest last %t", name, sorted, newestLast)
		}
	}
}
