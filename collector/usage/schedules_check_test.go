package usage

import (
	"maps"
	"slices"

	"opper_exporter/collector/aggregate"
)

// check compares what is counted with the truth.
func (w *world) check() {
	countedBy := map[string]*key{}
	for _, k := range w.keys {
		for id := range k.set.accounts {
			if other := countedBy[id]; other != nil {
				w.failf("%s and %s both count %q", other.name, k.name, id)
			}
			countedBy[id] = k
		}
	}
	want := map[*key]map[cell]Amounts{}
	for _, k := range w.keys {
		want[k] = map[cell]Amounts{}
	}
	for b := range w.rows {
		isVisible := slices.ContainsFunc(w.keys, func(k *key) bool { return w.isVisible(k, b.project) })
		if k := countedBy[b.project]; k == nil && isVisible && b.hour >= hourOf(w.now)-finalAfter {
			w.failf("no project counts %q", b.project)
		}
	}
	for _, k := range w.keys {
		truth := k.seen
		if !w.shrinks {
			truth = map[bucket]Amounts{}
			for b, a := range w.rows {
				if countedBy[b.project] == k {
					b.project = k.set.accounts[b.project]
					sum := truth[b]
					sum.add(a)
					truth[b] = sum
				}
			}
		}
		for b, a := range truth {
			if b.hour < month {
				continue
			}
			c := cell{b.project, aggregate.LabelOr(b.model, None)}
			if k.set.models[c] == nil {
				c.model = aggregate.Other
			}
			sum := want[k][c]
			sum.add(a)
			want[k][c] = sum
		}
		got := map[cell]Amounts{}
		labels, others := map[string]bool{}, map[string]bool{}
		for _, m := range k.set.Models() {
			others[m.OpperProject] = true
			got[cell{m.OpperProject, m.Label}] = m.Exposed()
			labels[m.Label] = true
		}
		if w.moved[k] {
			continue // see checkMoved
		}
		if !maps.Equal(got, want[k]) {
			w.failf("%s counts %v\nwant %v", k.name, got, want[k])
		}
		for _, label := range []string{"", None, aggregate.Other} {
			delete(others, label)
		}
		if len(others) > k.maxOthers {
			w.failf("%s has Opper projects %v, more than %d", k.name, others, k.maxOthers)
		}
		if delete(labels, aggregate.Other); len(labels) > k.maxModels {
			w.failf("%s has models %v, more than %d", k.name, labels, k.maxModels)
		}
	}
}

// noteMoves takes in which Opper projects a project counts now.
func (w *world) noteMoves(k *key) {
	for id, before := range w.counts {
		if _, isCounted := k.set.accounts[id]; isCounted != (before == k) {
			w.moved[k], w.moved[before] = true, true
			if w.givenUp[id].IsZero() {
				w.givenUp[id] = w.now
			}
		}
	}
	for id := range k.set.accounts {
		w.counts[id] = k
		delete(w.givenUp, id)
	}
}

// checkMoved compares what projects have counted together with the truth, between which
// Opper projects have moved.
func (w *world) checkMoved() {
	var got, want Amounts
	for k := range w.moved {
		for _, m := range k.set.Models() {
			got.add(m.Exposed())
		}
	}
	for b, a := range w.rows {
		if w.moved[w.counts[b.project]] && b.hour >= month {
			want.add(a)
		}
	}
	isEqual := got == want || w.lacks && got[Cost] < want[Cost]
	if !w.shrinks && !isEqual {
		w.failf("those between which Opper projects have moved count %v, want %v", got, want)
	}
}
