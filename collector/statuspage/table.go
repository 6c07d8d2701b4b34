package statuspage

import (
	"cmp"
	"slices"
	"strings"
)

// table is what the page says about several projects, in a row each: a page of each in
// full would take megabytes.
type table struct {
	Rows            []view // the worst first
	Bad, Busy, Good int    // how many have a badge of this level
	HasCost         bool   // usage and budget of some are read
}

func newTable(views []view) *table {
	t := &table{Rows: views}
	levels := map[string]*int{bad: &t.Bad, busy: &t.Busy, good: &t.Good}
	for _, v := range views {
		*levels[v.Badge.Level]++
		t.HasCost = t.HasCost || v.Cost != nil
	}
	slices.SortFunc(views, func(a, b view) int {
		// The levels are in the order of the alphabet.
		return cmp.Or(strings.Compare(a.Badge.Level, b.Badge.Level), strings.Compare(a.Name, b.Name))
	})
	return t
}
