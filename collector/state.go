package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
	"opper_exporter/collector/sums"
	"opper_exporter/collector/walk"
)

// List identifies a list of traces. Counts of one list are not added to those
// of another.
type List struct {
	URL        string `json:"url"`
	NameFilter string `json:"name_filter"`
}

// The documents that are stored beside the ledger and the names.
const (
	docIdentity = "identity"
	docWalk     = "walk"
	docProject  = "project"
	docMet      = "met" // the names that were met
	docDeferred = "deferred/"
)

const identityVersion = 1

// identity is what the numbers of a state mean.
type identity struct {
	Version int `json:"version"`
	List
	DurationBuckets []float64 `json:"duration_buckets"`
	TokenBuckets    []float64 `json:"token_buckets"`
	LastGood        time.Time `json:"last_good"`

	Clock *clockState `json:"clock,omitempty"`
}

// restore goes on from what is stored, if there is anything that can be gone on
// from, and reports whether it did.
func (p *Project) restore(ledgerCfg ledger.Config, walkCfg walk.Config) (bool, error) {
	if p.cfg.Store == nil {
		return false, nil
	}
	logger := p.cfg.Logger
	st, found, err := p.cfg.Store.Load(p.cfg.Project)
	if err != nil {
		return false, fmt.Errorf("state of project %q: %w", p.cfg.Project, err)
	}
	if !found {
		return false, nil
	}
	var id identity
	if err := json.Unmarshal(st.Docs[docIdentity], &id); err != nil {
		return false, fmt.Errorf("identity of the state of project %q: %w", p.cfg.Project, err)
	}
	if id.Version != identityVersion {
		return false, fmt.Errorf("identity of the state of project %q: version %d is not known", p.cfg.Project, id.Version)
	}
	if id.List != p.cfg.List {
		level.Warn(logger).Log("msg", "the stored state is of another list, so counting begins anew", "project", p.cfg.Project,
			"stored_url", id.URL, "url", p.cfg.List.URL, "stored_name_filter", id.NameFilter, "name_filter", p.cfg.List.NameFilter)
		p.origin = otherList
		return false, nil
	}
	if p.cfg.Clock != nil && id.Clock != nil {
		p.cfg.Clock.restore(*id.Clock)
	}
	p.led = ledger.Restore(ledgerCfg, st.Ledger, p.cfg.Now())
	if p.sums, err = sums.Restore(p.cfg.Sums, sums.State{Names: st.Names, Project: st.Docs[docProject], Met: st.Docs[docMet], Deferred: deferredDocs(st.Docs)}); err != nil {
		return false, fmt.Errorf("state of project %q: %w", p.cfg.Project, err)
	}
	p.walker = walk.New(walkCfg, p.led)
	if err := p.walker.Restore(st.Docs[docWalk]); err != nil {
		return false, fmt.Errorf("state of project %q: %w", p.cfg.Project, err)
	}
	p.fresh = false
	now := p.wall()
	p.lastGood = id.LastGood
	if p.lastGood.After(now) {
		p.lastGood = now
	}
	if p.led.Baseline() {
		p.origin = resumed
		level.Info(logger).Log("msg", "going on with the first walk", "project", p.cfg.Project, "met", p.led.Listed())
	} else {
		level.Info(logger).Log("msg", "going on from the stored state", "project", p.cfg.Project, "listed", p.led.Listed(), "last_sync", p.lastGood.UTC().Format(time.RFC3339))
	}
	var changed bool
	if !slices.Equal(id.DurationBuckets, p.cfg.Sums.DurationBuckets) {
		p.sums.ResetDurations(now)
		changed = true
		level.Warn(logger).Log("msg", "the duration buckets have changed, so the duration histograms begin anew", "project", p.cfg.Project)
	}
	if !slices.Equal(id.TokenBuckets, p.cfg.Sums.TokenBuckets) {
		p.sums.ResetTokens(now)
		changed = true
		level.Warn(logger).Log("msg", "the token buckets have changed, so the token histograms begin anew", "project", p.cfg.Project)
	}
	if err := p.sums.CheckBuckets(); err != nil {
		return false, fmt.Errorf("state of project %q: %w", p.cfg.Project, err)
	}
	if changed {
		// Before anything of it is shown.
		if err := p.save(); err != nil {
			return false, err
		}
	}
	return true, nil
}

// commit makes what has changed durable. If it can't, what is published stays
// as it is, and the changes are part of the next commit, unless the store is
// broken.
func (p *Project) commit() bool {
	err := p.save()
	if err != nil {
		p.health.commits.WithLabelValues("error").Inc()
	}
	logger := log.With(p.cfg.Logger, "project", p.cfg.Project)
	switch {
	case errors.Is(err, store.ErrBroken):
		p.broken = err
		p.halt()
	case err != nil:
		// Each sync fails in the same way until somebody makes room.
		if err.Error() != p.refused {
			level.Error(logger).Log("msg", "the state can't be stored, so the last numbers stay published", "err", err)
		}
		p.refused = err.Error()
	case p.cfg.Store != nil:
		p.health.commits.WithLabelValues("success").Inc()
		if p.refused != "" {
			level.Info(logger).Log("msg", "the state can be stored again")
		}
		p.refused = ""
	}
	return err == nil
}

func (p *Project) save() error {
	if p.cfg.Store != nil {
		changes, err := p.changes()
		if err != nil {
			return err
		}
		if err := p.cfg.Store.Commit(p.cfg.Project, changes, p.fresh); err != nil {
			return fmt.Errorf("state of project %q: %w", p.cfg.Project, err)
		}
		p.fresh = false
	}
	p.led.Saved()
	p.sums.Saved()
	return nil
}

func (p *Project) changes() (store.State, error) {
	is := identity{
		Version: identityVersion, List: p.cfg.List, DurationBuckets: p.cfg.Sums.DurationBuckets, TokenBuckets: p.cfg.Sums.TokenBuckets, LastGood: p.lastGood,
	}
	if p.cfg.Clock != nil {
		is.Clock = new(p.cfg.Clock.state())
	}
	id, err := json.Marshal(is)
	if err != nil {
		return store.State{}, fmt.Errorf("identity of the state: %w", err)
	}
	walked, err := p.walker.State()
	if err != nil {
		return store.State{}, err
	}
	added := p.sums.Changes()
	st := store.State{
		Ledger: p.led.Changes(),
		Names:  added.Names,
		Docs:   map[string][]byte{docIdentity: id, docWalk: walked, docProject: added.Project},
	}
	if added.Met != nil {
		st.Docs[docMet] = added.Met
	}
	for doc, body := range added.Deferred {
		st.Docs[docDeferred+doc] = body
	}
	return st, nil
}

// deferredDocs returns the documents of the deferred traces.
func deferredDocs(docs map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for doc, body := range docs {
		if name, ok := strings.CutPrefix(doc, docDeferred); ok {
			out[name] = body
		}
	}
	return out
}
