package aggregate

import (
	"math"
	"slices"
)

const maxExact = 10_000

// distinct counts different names: exactly up to maxExact, then by an estimate
// from the smallest hashes (Bar-Yossef et al., "Counting Distinct Elements in a
// Data Stream", 2002), with an error of about 1 %.
type distinct struct {
	smallest []uint64 // sorted
	changed  bool     // since the last commit
}

func (d *distinct) add(hash uint64) {
	if len(d.smallest) == maxExact && hash >= d.smallest[maxExact-1] {
		return
	}
	i, found := slices.BinarySearch(d.smallest, hash)
	if found {
		return
	}
	d.changed = true
	d.smallest = slices.Insert(d.smallest, i, hash)
	d.smallest = d.smallest[:min(len(d.smallest), maxExact)]
}

// remove takes a hash out, unless the number is an estimate.
func (d *distinct) remove(hash uint64) {
	if i, found := slices.BinarySearch(d.smallest, hash); found && len(d.smallest) < maxExact {
		d.smallest = slices.Delete(d.smallest, i, i+1)
		d.changed = true
	}
}

func (d *distinct) count() float64 {
	if len(d.smallest) < maxExact {
		return float64(len(d.smallest))
	}
	share := float64(d.smallest[maxExact-1]) / math.MaxUint64
	return max(maxExact, math.Round((maxExact-1)/share))
}
