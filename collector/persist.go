package collector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/syncer"
)

// The parts of a state, the first byte of the keys of their entries. Behind it:
const (
	partAggregates = "a" // see aggregate.Set.Changes
	partDocument   = "d" // one of the names below
	partLedger     = "l" // see ledger.Ledger.Changes

	docIdentity = partDocument + "identity"
	docSyncer   = partDocument + "syncer"
)

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

// restore continues from the state of the project, if there is one. It writes
// nothing.
func (p *project) restore() error {
	if p.deps.Store == nil {
		return nil
	}
	restored := ledger.New(p.ledgerConfig())
	aggregates, documents := map[string][]byte{}, map[string][]byte{}
	found, err := p.deps.Store.Load(p.cfg.Name, func(key string, body []byte) error {
		if key, ok := strings.CutPrefix(key, partLedger); ok {
			return restored.Restore(key, body)
		}
		if key, ok := strings.CutPrefix(key, partAggregates); ok {
			aggregates[key] = bytes.Clone(body)
		} else {
			documents[key] = bytes.Clone(body)
		}
		return nil
	})
	if err != nil {
		return p.stateError(err)
	}
	if !found {
		return nil
	}
	var id identity
	if err := json.Unmarshal(documents[docIdentity], &id); err != nil {
		return p.stateError(fmt.Errorf("identity: %w", err))
	}
	if !p.isContinued {
		p.clock.restore(id.Clock)
	}
	if err := restored.EndRestore(p.clock.Now()); err != nil {
		return p.stateError(fmt.Errorf("ledger: %w", err))
	}
	p.upstream = id.upstream
	// Another URL may lead to the same list. Where no row is known, nothing can
	// show that.
	if p.isUnproven() && (id.NameFilter != p.cfg.Opper.Name || restored.IsInitialSync() || restored.Listed() == 0) {
		p.startOver()
		return nil
	}
	p.ledger = restored
	if p.aggregates, err = aggregate.Restore(p.cfg.Aggregate, aggregates); err != nil {
		return p.stateError(fmt.Errorf("aggregates: %w", err))
	}
	restoredSyncer := syncer.New(p.syncerConfig(), p.ledger)
	if err := restoredSyncer.Restore(documents[docSyncer]); err != nil {
		return p.stateError(err)
	}
	p.syncer = restoredSyncer
	p.fresh = false
	now := p.clock.System()
	p.lastSuccess = id.LastSuccess
	if p.lastSuccess.After(now) {
		p.lastSuccess = now
	}
	if p.ledger.IsInitialSync() {
		p.origin = interrupted
		level.Info(p.logger).Log("msg", "initial sync resumed", "read", p.ledger.Listed())
	} else {
		level.Info(p.logger).Log("msg", "state restored", "listed", p.ledger.Listed(), "last_sync", p.lastSuccess.UTC().Format(time.RFC3339))
	}
	return p.resetBuckets(&id, now)
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
	err := p.save()
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

func (p *project) save() error {
	if p.deps.Store != nil {
		changes, err := p.changes()
		if err != nil {
			return err
		}
		if err := p.deps.Store.Commit(p.cfg.Name, changes, p.fresh); err != nil {
			return p.stateError(err)
		}
		p.fresh = false
	}
	p.ledger.Committed()
	p.aggregates.Committed()
	return nil
}

// changes returns the entries that have changed.
func (p *project) changes() (map[string][]byte, error) {
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
	changes := map[string][]byte{docIdentity: id, docSyncer: synced}
	p.ledger.Changes(func(key string, body []byte) { changes[partLedger+key] = body })
	p.aggregates.Changes(func(key string, body []byte) { changes[partAggregates+key] = body })
	return changes, nil
}
