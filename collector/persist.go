package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/syncer"
	"opper_exporter/collector/usage"
)

// The parts of a state, the first byte of the keys of their entries. Behind it:
const (
	partAggregates = "a" // see aggregate.Set.Changes
	partDocument   = "d" // one of the names below
	partLedger     = "l" // see ledger.Ledger.Changes
	partUsage      = "u" // see usage.Set.Changes

	docIdentity = "identity"
	docSyncer   = "syncer"
)

// documentsInterval is for how long a project in which nothing changes commits nothing.
// Its documents then say nothing new but when it synced last, and how old its list was:
// as if the process had been killed after an earlier one of these syncs.
const documentsInterval = 5 * time.Minute

// identity says what the numbers of a state mean.
type identity struct {
	upstream
	DurationBuckets, TokenBuckets []float64
	LastSuccess                   time.Time
	Clock                         clockState
}

// origin is why there is an initial sync.
type origin int

const (
	noState       origin = iota
	otherUpstream        // the state counts another list
	interrupted          // an initial sync was interrupted
)

// stored is the state of a project but for its ledger.
type stored struct {
	identity
	parts map[string]map[string][]byte // entries by the rest of their keys
	bytes int                          // of all entries, also those of the ledger
}

// load reads the state of a project, and its ledger into led; nil if there is none.
func load(from Store, project string, led *ledger.Ledger) (*stored, error) {
	st := &stored{parts: map[string]map[string][]byte{partAggregates: {}, partDocument: {}, partUsage: {}}}
	found, err := from.Load(project, func(key string, body []byte) error {
		st.bytes += len(key) + len(body)
		if key, ok := strings.CutPrefix(key, partLedger); ok {
			return led.Restore(key, body)
		}
		for part, entries := range st.parts {
			if key, ok := strings.CutPrefix(key, part); ok {
				entries[key] = bytes.Clone(body)
			}
		}
		return nil
	})
	if err != nil || !found {
		return nil, err
	}
	if err := json.Unmarshal(st.parts[partDocument][docIdentity], &st.identity); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return st, nil
}

// restore continues from the state of the project, if there is one. It writes
// nothing.
func (p *project) restore() error {
	if p.deps.Store == nil {
		return nil
	}
	restored := ledger.New(p.ledgerConfig())
	st, err := load(p.deps.Store, p.cfg.Name, restored)
	switch {
	case err != nil:
		return p.stateError(err)
	case st == nil:
		return nil
	}
	if !p.isContinued {
		p.clock.restore(st.Clock)
	}
	if err := restored.EndRestore(p.clock.Now()); err != nil {
		return p.stateError(fmt.Errorf("ledger: %w", err))
	}
	p.upstream = st.upstream
	// Another URL may lead to the same list. Where no row is known, nothing can
	// show that.
	if p.isUnproven() && (st.NameFilter != p.cfg.Opper.Name || restored.IsInitialSync() || restored.Listed() == 0) {
		p.startOver()
		return nil
	}
	p.ledger = restored
	if p.aggregates, err = aggregate.Restore(p.cfg.Aggregate, st.parts[partAggregates]); err != nil {
		return p.stateError(fmt.Errorf("aggregates: %w", err))
	}
	restoredSyncer := syncer.New(p.syncerConfig(), p.ledger)
	if err := restoredSyncer.Restore(st.parts[partDocument][docSyncer]); err != nil {
		return p.stateError(err)
	}
	p.syncer = restoredSyncer
	if p.usage.set, err = usage.Restore(p.usageConfig(), st.parts[partUsage]); err != nil {
		return p.stateError(fmt.Errorf("usage: %w", err))
	}
	p.fresh = false
	now := p.clock.System()
	p.lastSuccess = st.LastSuccess
	if p.lastSuccess.After(now) {
		p.lastSuccess = now
	}
	if p.ledger.IsInitialSync() {
		p.origin = interrupted
		level.Info(p.logger).Log("msg", "initial sync resumed", "read", p.ledger.Listed())
	} else {
		level.Info(p.logger).Log("msg", "state restored", "listed", p.ledger.Listed(), "last_sync", p.lastSuccess.UTC().Format(time.RFC3339))
	}
	if p.aggregates.StartCosts(now) {
		p.hasReset = true
	}
	return p.resetBuckets(&st.identity, now)
}

// resetBuckets restarts histograms whose bounds have changed. That is committed
// before anything of them is exposed.
func (p *project) resetBuckets(id *identity, now time.Time) error {
	for _, h := range []struct {
		stored, bounds []float64
		name           string
		reset          func(time.Time)
	}{
		{id.DurationBuckets, p.cfg.Aggregate.DurationBuckets, "duration", p.aggregates.ResetDurations},
		{id.TokenBuckets, p.cfg.Aggregate.TokenBuckets, "token", p.aggregates.ResetTokens},
	} {
		if !slices.Equal(h.stored, h.bounds) {
			p.hasReset = true
			h.reset(now)
			level.Warn(p.logger).Log("msg", "buckets have changed, histograms restart from zero", "buckets", h.name)
		}
	}
	if err := p.aggregates.CheckBuckets(); err != nil {
		return p.stateError(err)
	}
	return nil
}

func (p *project) stateError(err error) error {
	return fmt.Errorf("state of project %q: %w", p.cfg.Name, err)
}

// commit makes what has changed durable. If it can't, what is published stays
// as it is, and the changes are part of the next commit, unless the store is
// broken.
func (p *project) commit() bool {
	began := p.clock.Now()
	// opper_up is 0 by then, and nothing else would say why.
	slow := time.AfterFunc(p.metrics.stall.limit, func() {
		level.Error(p.logger).Log("msg", "commit has not ended, the disk does not answer", "waited_seconds", p.metrics.stall.limit.Seconds())
	})
	defer slow.Stop() // also if it panics: the timer would hold the project
	err := p.save()
	if !slow.Stop() {
		level.Info(p.logger).Log("msg", "commit has ended", "duration_seconds", p.clock.Now().Sub(began).Seconds())
	}
	if p.deps.Store != nil {
		p.metrics.committed(err == nil)
	}
	switch {
	case errors.Is(err, store.ErrBroken):
		p.broken = err
		p.halt()
	case err != nil:
		// Each sync fails, perhaps at another step, until there is room again.
		if p.commitErr != nil {
			level.Debug(p.logger).Log("msg", "commit failed again", "err", err)
		} else {
			level.Error(p.logger).Log("msg", "commit failed, the last numbers stay published", "err", err)
		}
		p.commitErr = err
	default:
		if p.commitErr != nil {
			level.Info(p.logger).Log("msg", "commits succeed again")
		}
		p.commitErr = nil
	}
	return err == nil
}

// commitDocuments writes what syncs that found nothing new have put off, so that
// nothing goes back at a restart. Nothing is written if the last sync failed; it must
// have ended.
func (p *project) commitDocuments() {
	if p.isPublished() && !p.failing && p.commitErr == nil && p.broken == nil {
		p.documentsAt = time.Time{}
		p.commit()
	}
}

func (p *project) save() error {
	if p.deps.Store != nil {
		entries := map[string][]byte{}
		p.ledger.Changes(func(key string, body []byte) { entries[partLedger+key] = body })
		p.aggregates.Changes(func(key string, body []byte) { entries[partAggregates+key] = body })
		p.usage.set.Changes(func(key string, body []byte) { entries[partUsage+key] = body })
		changes, err := p.changes(entries)
		if err != nil {
			return err
		}
		if err := p.deps.Store.Commit(p.cfg.Name, changes, p.fresh); err != nil {
			return p.stateError(err)
		}
		if p.fresh = false; changes != nil {
			p.documentsAt, p.committedTotal, p.committed = p.clock.Now(), p.syncer.Total(), nil
			if len(entries) <= entriesEachTime {
				p.committed = entries
			}
		}
	}
	p.ledger.Committed()
	p.aggregates.Committed()
	p.usage.set.Committed()
	return nil
}

// entriesEachTime is the number of entries that ledger and aggregates put if nothing has
// changed.
const entriesEachTime = 2

// changes returns what is to be committed, which is nothing if these entries are stored
// and the documents can wait.
func (p *project) changes(entries map[string][]byte) (map[string][]byte, error) {
	if !p.fresh && p.clock.Now().Sub(p.documentsAt) < documentsInterval &&
		p.syncer.Total() == p.committedTotal && maps.EqualFunc(entries, p.committed, bytes.Equal) {
		return nil, nil
	}
	id, err := json.Marshal(identity{
		upstream:        p.upstream,
		DurationBuckets: p.cfg.Aggregate.DurationBuckets, TokenBuckets: p.cfg.Aggregate.TokenBuckets,
		LastSuccess: p.lastSuccess, Clock: p.clock.state(),
	})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	synced, err := p.syncer.State()
	if err != nil {
		return nil, err
	}
	changes := maps.Clone(entries)
	changes[partDocument+docIdentity], changes[partDocument+docSyncer] = id, synced
	return changes, nil
}
