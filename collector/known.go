package collector

import (
	"fmt"
	"math"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
)

// Known is what the state of a project says of its list.
type Known struct {
	Listed   int       // rows believed to be listed
	LastSync time.Time // end of the last successful sync

	// Of the trace metrics.
	URL, NameFilter string
	DurationBuckets []float64
	TokenBuckets    []float64
	IsInitialSync   bool // the initial sync is not complete
	Open            int  // traces
	Aggregates      *aggregate.Set
	Bytes           int // of all entries

	ledger *ledger.Ledger
}

// ReadKnown reads the state of a project; nil if there is none.
func ReadKnown(state Store, project string) (*Known, error) {
	k := &Known{ledger: ledger.New(ledger.Config{})}
	st, err := load(state, project, k.ledger)
	if err != nil || st == nil {
		return nil, err
	}
	k.LastSync, k.URL, k.NameFilter, k.Bytes = st.LastSuccess, st.URL, st.NameFilter, st.bytes
	k.DurationBuckets, k.TokenBuckets = st.DurationBuckets, st.TokenBuckets
	if err := k.ledger.EndRestore(st.Clock.Time); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	k.Listed, k.IsInitialSync = k.ledger.Listed(), k.ledger.IsInitialSync()
	k.ledger.Open(func(ledger.Row) { k.Open++ })
	// No name is to lose its place here.
	if k.Aggregates, err = aggregate.Restore(aggregate.Config{MaxNames: math.MaxInt32}, st.parts[partAggregates]); err != nil {
		return nil, fmt.Errorf("aggregates: %w", err)
	}
	return k, nil
}

// ForgetName removes all that was counted under a trace name. Its traces stay
// known, so none is counted twice; a later one begins a new aggregate.
func ForgetName(state Store, project, label string) error {
	k, err := ReadKnown(state, project)
	switch {
	case err != nil:
		return err
	case k == nil:
		return fmt.Errorf("there is no project %q", project)
	case k.IsInitialSync:
		return fmt.Errorf("the initial sync of project %q is not complete, so no name has series yet", project)
	case !slices.ContainsFunc(k.Aggregates.All(), func(n *aggregate.Aggregate) bool { return n.Label == label }):
		return fmt.Errorf("project %q has no trace name %q", project, label)
	}
	k.Aggregates.Remove(label)
	changes := map[string][]byte{}
	k.Aggregates.Changes(func(key string, body []byte) { changes[partAggregates+key] = body })
	return state.Commit(project, changes, false)
}

// Has reports whether a trace was seen before, by its id as Opper writes it.
func (k *Known) Has(id string) bool { return k.ledger.HasSeen(ledger.KeyOf(id)) }

// HasCounted reports whether a trace was counted, see ledger.Ledger.
func (k *Known) HasCounted(id ledger.ID) (counted, abandoned bool) { return k.ledger.HasCounted(id) }

// Pending calls f for each trace that is open or not settled, in no order.
func (k *Known) Pending(f func(ledger.Row)) { k.ledger.Pending(f) }
