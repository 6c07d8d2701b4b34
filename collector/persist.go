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

	"github.com/go-kit/log"
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
	otherUpstream        // the state is of another upstream
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
	if p.state.store == nil {
		return nil
	}
	restored := ledger.New(p.ledgerConfig())
	st, err := load(p.state.store, p.cfg.Name, restored)
	switch {
	case err != nil:
		return stateError(p.cfg.Name, err)
	case st == nil:
		return nil
	}
	if !p.isContinued {
		p.clock.restore(st.Clock)
	}
	if err := restored.EndRestore(p.clock.Now()); err != nil {
		return stateError(p.cfg.Name, fmt.Errorf("ledger: %w", err))
	}
	p.upstream = st.upstream
	// Another URL may lead to the same list. Where no row is known, nothing can
	// show that.
	if p.isUnproven() && (st.NameFilter != p.cfg.Opper.Name || restored.IsInitialSync() || restored.Listed() == 0) {
		p.startOver()
		if st.URL != p.cfg.UpstreamURL {
			return nil
		}
		return p.keepUsage(st.parts[partUsage])
	}
	p.ledger = restored
	if p.aggregates, err = aggregate.Restore(p.cfg.Aggregate, st.parts[partAggregates]); err != nil {
		return stateError(p.cfg.Name, fmt.Errorf("aggregates: %w", err))
	}
	restoredSyncer := syncer.New(p.syncerConfig(), p.ledger)
	if err := restoredSyncer.Restore(st.parts[partDocument][docSyncer]); err != nil {
		return stateError(p.cfg.Name, err)
	}
	p.syncer = restoredSyncer
	if err := p.restoreUsage(st.parts[partUsage]); err != nil {
		return err
	}
	p.state.isFresh = false
	now := p.clock.System()
	p.lastSuccess = st.LastSuccess
	if p.lastSuccess.After(now) {
		p.lastSuccess = now
	}
	if p.ledger.IsInitialSync() {
		p.initial.origin = interrupted
		level.Info(p.logger).Log("msg", "initial sync resumed", "read", p.ledger.Listed())
	} else {
		level.Info(p.logger).Log("msg", "state restored", "listed", p.ledger.Listed(), "last_sync", p.lastSuccess.UTC().Format(time.RFC3339))
	}
	if p.aggregates.StartCosts(now) {
		p.state.hasReset = true
	}
	return p.resetBuckets(&st.identity, now)
}

func (p *project) restoreUsage(entries map[string][]byte) (err error) {
	if p.usage.set, err = usage.Restore(p.usageConfig(), entries); err != nil {
		return stateError(p.cfg.Name, fmt.Errorf("usage: %w", err))
	}
	return nil
}

// keepUsage continues from stored usage where all else starts over: it does not depend on
// the name filter. What the exporter says about itself begins at 0 together.
func (p *project) keepUsage(entries map[string][]byte) error {
	if err := p.restoreUsage(entries); err != nil {
		return err
	}
	p.usage.set.Corrections, p.usage.set.Incomplete = 0, 0
	p.usage.set.PutAll()
	return nil
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
			p.state.hasReset = true
			h.reset(now)
			level.Warn(p.logger).Log("msg", "buckets have changed, histograms restart from zero", "buckets", h.name)
		}
	}
	if err := p.aggregates.CheckBuckets(); err != nil {
		return stateError(p.cfg.Name, err)
	}
	return nil
}

// persistence commits the state of a project.
type persistence struct {
	project string
	store   Store // nil disables it
	clock   *Clock
	metrics *instrumentation
	logger  log.Logger

	isFresh  bool  // the state on disk, if any, is to be replaced
	hasReset bool  // the state on disk lacks what restarts from zero, which is to be committed before it is exposed
	err      error // of the last commit
	broken   error // why the store is broken, which is final

	documentsAt time.Time         // when the documents were committed last; zero if there is more in them than times
	total       int               // in them
	entries     map[string][]byte // all other entries of that commit, if they were few
}

// commit makes entries and documents durable. If it can't, what is published stays
// as it is, and the changes are part of the next commit, unless the store is
// broken.
func (s *persistence) commit(entries map[string][]byte, total int, documents func() (map[string][]byte, error)) bool {
	if s.store == nil {
		return true
	}
	began := s.clock.Now()
	// opper_up is 0 by then, and nothing else would say why.
	slow := time.AfterFunc(s.metrics.stall.limit, func() {
		level.Error(s.logger).Log("msg", "commit blocked by the disk", "waited_seconds", s.metrics.stall.limit.Seconds())
	})
	defer slow.Stop() // also if it panics: the timer would hold the project
	err := s.save(entries, total, documents)
	if !slow.Stop() {
		level.Info(s.logger).Log("msg", "blocked commit complete", "duration_seconds", s.clock.Now().Sub(began).Seconds())
	}
	s.metrics.committed(err == nil)
	switch {
	case errors.Is(err, store.ErrBroken):
		s.broken = err
		return false
	case err == nil && s.err != nil:
		level.Info(s.logger).Log("msg", "commits succeed again")
	case err != nil && s.err == nil:
		level.Error(s.logger).Log("msg", "commit failed", "err", err)
	case err != nil: // each sync fails, perhaps at another step, until there is room again
		level.Debug(s.logger).Log("msg", "commit failed", "err", err)
	}
	s.err = err
	return err == nil
}

// entriesEachTime is the number of entries that ledger and aggregates put if nothing has
// changed.
const entriesEachTime = 2

// save commits nothing if these entries are stored and the documents can wait.
func (s *persistence) save(entries map[string][]byte, total int, documents func() (map[string][]byte, error)) error {
	var changes map[string][]byte
	now := s.clock.Now()
	if s.isFresh || now.Sub(s.documentsAt) >= documentsInterval || total != s.total || !maps.EqualFunc(entries, s.entries, bytes.Equal) {
		var err error
		if changes, err = documents(); err != nil {
			return stateError(s.project, err)
		}
		maps.Copy(changes, entries)
	}
	if err := s.store.Commit(s.project, changes, s.isFresh); err != nil {
		return stateError(s.project, err)
	}
	if s.isFresh = false; changes != nil {
		s.documentsAt, s.total, s.entries = s.clock.Now(), total, nil
		if len(entries) <= entriesEachTime {
			s.entries = entries
		}
	}
	return nil
}

func stateError(project string, err error) error {
	return fmt.Errorf("state of project %q: %w", project, err)
}

// commit makes what has changed durable. If the store is broken, it ends run.
func (p *project) commit() bool {
	if !p.state.commit(p.entries(), p.syncer.Total(), p.documents) {
		if p.state.broken != nil {
			p.halt()
		}
		return false
	}
	p.ledger.Committed()
	p.aggregates.Committed()
	p.usage.set.Committed()
	return true
}

// commitDocuments writes what syncs that found nothing new have put off, so that
// nothing goes back at a restart. Nothing is written if the last sync failed; it must
// have ended.
func (p *project) commitDocuments() {
	if p.snapshots.isPublished() && !p.failing && p.state.err == nil && p.state.broken == nil {
		p.state.documentsAt = time.Time{}
		p.commit()
	}
}

// entries returns those that have changed, but for the documents.
func (p *project) entries() map[string][]byte {
	if p.state.store == nil {
		return nil
	}
	entries := map[string][]byte{}
	p.ledger.Changes(func(key string, body []byte) { entries[partLedger+key] = body })
	p.aggregates.Changes(func(key string, body []byte) { entries[partAggregates+key] = body })
	p.usage.set.Changes(func(key string, body []byte) { entries[partUsage+key] = body })
	return entries
}

func (p *project) documents() (map[string][]byte, error) {
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
	return map[string][]byte{partDocument + docIdentity: id, partDocument + docSyncer: synced}, nil
}
