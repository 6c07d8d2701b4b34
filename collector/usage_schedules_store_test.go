package collector

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

// scheduledStore is the store as the project sees it: it can be full, and the program can
// be killed before and after a commit.
type scheduledStore struct{ *usageSchedule }

func (s scheduledStore) Load(project string, visit func(string, []byte) error) (bool, error) {
	return s.disk.Load(project, visit)
}

func (s scheduledStore) Projects() ([]string, error) { return s.disk.Projects() }

func (s scheduledStore) Commit(project string, changes map[string][]byte, fresh bool) error {
	s.applied()
	s.kill()
	fails := s.chance(s.unwritable)
	if fails && s.rng.IntN(3) > 0 {
		s.note("commit fails")
		return errDiskFull
	}
	if err := s.disk.Commit(project, changes, fresh); err != nil {
		return err
	}
	s.durable = s.model.clone()
	clear(s.durable.dropped)
	s.kill()
	if fails {
		s.note("commit fails and is durable")
		return errDiskFull
	}
	clear(s.model.dropped)
	return nil
}

func (s *usageSchedule) kill() {
	if s.chance(s.crash) {
		panic(killed{})
	}
}

// applied brings the model up to what the project has applied.
func (s *usageSchedule) applied() {
	p := s.project
	if p == nil {
		return
	}
	if a := s.answer; a != nil {
		s.answer = nil
		if a.asked[byModel] && p.usage.kinds[byModel].err == nil {
			s.readModels(a)
		}
		s.applyCosts(a)
	}
	names := map[string]bool{}
	for _, n := range p.aggregates.All() {
		names[n.Label] = true
	}
	s.label()
	s.model.expire(names)
}

// readModels does that to what was read of models.
func (s *usageSchedule) readModels(a *usageAnswer) {
	exposed := map[spendCell]bool{}
	for _, m := range s.project.usage.set.Models() {
		exposed[spendCell{0, m.OpperProject, m.Label}] = true
	}
	m, now := s.model, s.at.Add(s.ours)
	before := len(m.dropped)
	m.read(a.models, a.from, s.proof, now, exposed)
	if wrong := m.expireModels(exposed, min(m.newest, now.Unix()/3600), int64(s.expiry/time.Hour)); wrong != nil {
		s.fail("usage of %v is not exposed any more", *wrong)
	}
	if len(m.dropped) > before {
		s.note("model expired")
	}
}

// traceReads is how reads of usage by trace have ended since the start of the program.
type traceReads struct {
	failingSince time.Time // zero if the last one did not
	unjoinable   bool      // the last one
	unjoined     int       // costs unknown in a row, while there was usage of no known trace
}

// applyCosts does that to what was read of traces.
func (s *usageSchedule) applyCosts(a *usageAnswer) {
	if !a.asked[byTrace] {
		return
	}
	r, now, err := &s.traceReads, s.project.clock.Now(), a.errs[byTrace]
	if err != nil {
		r.unjoinable = false
		if isNo(err) || !r.failingSince.IsZero() && now.Sub(r.failingSince) >= time.Hour {
			s.model.costs(nil, s.answerAt, now)
		}
	} else {
		unknown := s.model.costs(a.traces, s.answerAt, a.began)
		hasTraces, isJoined := false, false
		for _, u := range a.traces {
			hasTraces = hasTraces || u.Trace != ""
			isJoined = isJoined || u.Trace != "" && s.project.ledger.HasSeen(ledger.KeyOf(u.Trace))
		}
		if r.unjoined += unknown; isJoined || len(a.traces) == 0 {
			r.unjoined = 0
		}
		r.unjoinable = !isJoined && (r.unjoinable || hasTraces && unknown > 0 || r.unjoined >= 3)
	}
	switch {
	case err == nil && !r.unjoinable:
		r.failingSince = time.Time{}
	case r.failingSince.IsZero():
		r.failingSince = now
	}
}

// isNo reports whether an error is Opper's answer to the request, which it gives again.
func isNo(err error) bool {
	if e, ok := errors.AsType[*opper.Error](err); ok {
		return slices.Contains([]int{403, 404, 422}, e.Status)
	}
	return errors.Is(err, opper.ErrNoGroup)
}

// label takes in under which names traces are counted, which the initial sync decides at
// its end.
func (s *usageSchedule) label() {
	if s.project.ledger.IsInitialSync() {
		return
	}
	for i := range s.model.traces {
		if t := &s.model.traces[i]; t.label == "" {
			t.label = s.project.aggregates.Find(t.name).Label
		}
	}
}

// scheduledSyncer passes on what it reads, and tells the model what is counted.
type scheduledSyncer struct {
	listSyncer
	*usageSchedule
}

func (r scheduledSyncer) Sync(ctx context.Context, src syncer.Source) iter.Seq2[syncer.Part, error] {
	return func(yield func(syncer.Part, error) bool) {
		for part, err := range r.listSyncer.Sync(ctx, src) {
			for _, c := range part.Events.Counted {
				r.tell("counted: %s as %q", c.Ref, c.Name)
				now := r.project.clock.Now()
				r.model.count(c, r.isInitial, now, r.project.clock.Wall(now))
			}
			more := yield(part, err)
			if !r.isInitial {
				r.label()
			}
			if !more {
				return
			}
		}
	}
}
