package usage

import (
	"context"
	"maps"
	"slices"

	"opper_exporter/opper"
)

// grow adds calls to hours that are not final.
func (w *world) grow(n int) {
	for range n {
		newest := hourOf(w.now)
		hour := newest - w.rng.Int64N(3)
		switch w.rng.IntN(6) {
		case 0, 1:
			hour = newest - w.rng.Int64N(finalAfter+1)
		case 2:
			hour = newest - finalAfter
		case 3:
			if w.isAhead && w.rng.IntN(4) == 0 {
				hour = newest + w.rng.Int64N(20)
			}
		}
		project := []string{"", "X", "X", "Y", "Z", "U"}[w.rng.IntN(6)]
		b := bucket{hour, project, []string{"", "m1", "m2", "m3"}[w.rng.IntN(4)]}
		old := w.rows[b]
		for i := range old {
			old[i] += w.rng.Int64N(1000)
		}
		w.rows[b] = old
		w.logf("grow %v to %v", b, old)
		if b.project == "" { // without any project beside it, it would count as the configured one's
			b.project = "X"
			beside := w.rows[b]
			w.rows[b] = beside
		}
	}
}

// shrink makes some amounts of an hour that is not final smaller.
func (w *world) shrink() {
	for _, b := range slices.SortedFunc(maps.Keys(w.rows), compareBuckets) {
		old := w.rows[b]
		if !w.shrinks || b.hour < hourOf(w.now)-finalAfter || w.rng.IntN(4) > 0 {
			continue
		}
		if w.rng.IntN(4) == 0 && b.project != "X" {
			delete(w.rows, b)
			w.logf("delete %v", b)
			continue
		}
		for i := range old {
			old[i] -= w.rng.Int64N(max(1, 2*old[i]))
		}
		w.rows[b] = old
		w.logf("shrink %v to %v", b, old)
	}
}

// view is what Opper answers to a key.
type view struct {
	*world
	*key
	fails bool
}

func (v view) Budget(context.Context) (opper.Budget, error) { return opper.Budget{}, nil }

func (v view) isVisible(project string) bool { return v.isOrgWide || project == v.own }

func (v view) Usage(_ context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	if v.fails && v.rng.IntN(2) == 0 {
		return opper.UsagePage{}, &opper.Error{Status: 500}
	}
	page := opper.UsagePage{Total: -1}
	sums := map[bucket]Amounts{}
	for b, a := range v.rows {
		if at := timeOf(b.hour); at.Before(q.From) || !at.Before(q.To) || !v.isVisible(b.project) {
			continue
		}
		if !slices.Contains(q.GroupBy, opper.GroupModel) {
			b.model = ""
		}
		if !slices.Contains(q.GroupBy, opper.GroupProject) {
			b.project = ""
		}
		sum := sums[b]
		sum.add(a)
		sums[b] = sum
	}
	for _, b := range slices.SortedFunc(maps.Keys(sums), compareBuckets) {
		a := sums[b]
		for isLast := false; !isLast; {
			part := a
			if isLast = v.rng.IntN(4) > 0; !isLast { // the same hour and groups in several rows
				for i := range part {
					part[i] = v.rng.Int64N(max(1, a[i]))
				}
			}
			page.Rows = append(page.Rows, opper.Usage{Bucket: timeOf(b.hour), Cost: part[Cost], Calls: part[Calls], InputTokens: part[InputTokens], OutputTokens: part[OutputTokens], Model: b.model, Project: b.project})
			for i := range a {
				a[i] -= part[i]
			}
		}
	}
	if v.rng.IntN(2) == 0 && len(page.Rows) > 8 {
		return opper.UsagePage{}, opper.ErrTooLarge
	}
	return page, nil
}
