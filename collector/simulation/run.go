package simulation

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"opper_exporter/collector/ledger"
	"opper_exporter/opper/oppertest"
)

// run plays the schedule.
func (s *simulation) run() {
	within := 40 * 60
	if s.old > 0 {
		within = 20 // they began together, so a good sync later they are older than the list was long
	}
	for i := range s.history {
		age := 1 + s.pick(within)
		if s.orderly {
			age = within - i*within/s.history
		}
		s.arrive(s.pick(8) == 0, time.Duration(age)*time.Second)
	}
	s.next = s.at
	switch {
	case s.every == 0:
	case s.list.Retention > 0:
		s.wait(s.list.Retention)
	default:
		s.wait(time.Duration(s.history) * s.every)
	}
	s.wait(s.old)
	s.other = s.otherProject(3)
	s.start()
	for range s.steps {
		s.step()
	}
	s.rest()
}

// step is a sync, and what goes before it.
func (s *simulation) step() {
	switch s.pick(20) {
	case 0:
		s.wait(time.Duration(10+s.pick(80)) * time.Minute)
	case 1, 2, 3:
		s.wait(time.Duration(1+s.pick(300)) * time.Second)
	default:
		s.wait(time.Duration(1+s.pick(40)) * time.Second)
	}
	s.beginTrouble()
	listed := len(s.opper.Snapshot())
	for n := s.pick(4); n > 0 && !s.idle; n-- {
		s.changeList()
	}
	for ; s.cancel && listed < s.listed; listed++ {
		s.arrive(false, time.Duration(10+s.pick(40))*time.Minute)
	}
	s.listed = len(s.opper.Snapshot())
	if s.chance(s.clock) {
		by := []time.Duration{5 * time.Minute, 2 * time.Hour}[s.pick(2)]
		if s.ours > -2*time.Hour && (s.ours > 2*time.Hour || s.pick(2) == 0) {
			by = -by
		}
		s.ours += by
		s.clockSet = s.at
		s.tell("our clock is set by %v", by)
	}
	if s.chance(s.poison) {
		if rows := s.opper.Snapshot(); len(rows) > 0 {
			if row := rows[s.pick(len(rows))].ID; row != "" {
				s.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row, Times: -1})
				s.poisoned[row] = true
			}
		}
	}
	if s.chance(s.unwritable) {
		s.full = 1 + s.pick(5)
	}
	if s.chance(s.restart) {
		if s.pick(2) == 0 {
			s.setBuckets()
		}
		s.start()
	}
	s.sync()
	s.sweep(1 + s.pick(4))
	s.readCosts()
	s.relieve()
}

// start makes a project of what is stored, as a start of the program does.
func (s *simulation) start() {
	s.counting, s.sweepBegan = ledger.Events{}, s.sweepLasts
	if s.lasted.IsZero() {
		s.ended = time.Time{}
	}
	clear(s.recent)
	s.emptySince = time.Time{}
	s.inner = s.reopen()
	calm := s.calm
	s.calm = true // a start that can't write ends the program
	full := s.full
	s.full = 0
	s.tell("start")
	for _, z := range s.zero {
		*z = zeros{since: s.at, read: z.hasEnded, hasEnded: z.hasEnded}
	}
	s.project, s.running = nil, s.cfg.Aggregate
	s.project = s.newProject(s.cfg, s.deps(s.found))
	if s.goElsewhere(s.away); s.away > 0 && !s.isKeyKnown() || s.isMadeUp() && !s.recognizable() {
		// What tells the lists apart was not durable.
		s.tell("the list is ours again")
		s.goElsewhere(0)
		s.wrong = 0
	}
	s.calm, s.full = calm, full
	s.watch()
}

// found takes note of what the project adds up, which uses the memory again.
func (s *simulation) found(ev ledger.Events) {
	c := &s.counting
	s.use(ev)
	c.Counted = append(c.Counted, ev.Counted...)
	c.Vanished = append(c.Vanished, ev.Vanished...)
	c.LateEnds = append(c.LateEnds, ev.LateEnds...)
	c.NoID += ev.NoID
	c.Gaps += ev.Gaps
}

// beginHistograms forgets those that were shown with other bounds.
func (s *simulation) beginHistograms(durations, tokens bool) {
	for key := range s.shown {
		if durations && strings.HasPrefix(key, "opper_trace_duration_seconds") || tokens && strings.HasPrefix(key, "opper_tokens_per_trace") {
			delete(s.shown, key)
			s.zero[groupOf(key)] = &zeros{since: s.at}
		}
	}
	for key := range s.totals {
		if durations && strings.HasPrefix(key, "opper_trace_duration_seconds") || tokens && strings.HasPrefix(key, "opper_tokens_per_trace") {
			delete(s.totals, key)
			delete(s.past, key)
		}
	}
}

// survive does something during which the program may be killed; false if it
// was, and has started again.
func (s *simulation) survive(do func()) (survived bool) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case crash{}:
			s.tell("crash")
			s.watch()
			s.start()
			survived = false
		default:
			panic(r)
		}
	}()
	do()
	return true
}

func (s *simulation) point() {
	if s.chance(s.crash) {
		panic(crash{})
	}
}

// sync runs one sync, and now and then only some of those that follow at once.
func (s *simulation) sync() {
	for isBehind := true; isBehind; {
		isBehind = s.oneSync() && s.project.Syncer().IsBehind() && (s.calm || s.pick(4) > 0)
	}
}

// oneSync runs one sync, and reports whether it succeeded.
func (s *simulation) oneSync() bool {
	s.wait(time.Millisecond)
	start := s.at
	s.wait(time.Millisecond)
	s.syncBegan = s.now()
	shot := s.project.Published()
	initialSync := s.project.Ledger().IsInitialSync()
	before := s.scans()
	swept := before.Sweep != nil && before.Sweep.Done
	if initialSync && s.initialSync.IsZero() {
		s.initialSync = start
	}
	s.look = look{certain: s.isCertain(), wasUnsorted: s.project.Syncer().IsUnsorted()}
	wasOurs := s.isOurs()
	if s.opper.Len() == 0 && s.emptySince.IsZero() {
		s.emptySince = start
	}
	s.syncs++
	s.tell("sync")
	succeeded := false
	alive := s.survive(func() {
		succeeded = s.project.Sync(context.Background())
		if !succeeded && !isSame(s.project.Published(), shot) {
			s.fail("a failed sync published numbers")
		}
		s.partial = s.partial || initialSync && s.spoiled
		if initialSync && !s.project.Ledger().IsInitialSync() {
			s.ended = s.at
			s.partial = s.partial || s.totals["opper_exporter_gaps_total{}"]+s.counting.Gaps > 0
		}
	})
	s.wait(time.Millisecond)
	s.longest = max(s.longest, s.at.Sub(start))
	s.partial = s.partial || initialSync && s.spoiled
	s.watch()
	if !alive {
		return false
	}
	if !succeeded || s.failing {
		s.goodSince = s.at
	}
	s.failing = !succeeded
	s.tell("sync ends: %v", succeeded)
	s.checkRefusal(start, succeeded, wasOurs)
	s.leaveOutRefused()
	if succeeded && s.certain && s.gotOther && !s.gotOurs {
		s.fail("another upstream is taken for ours")
	}
	// One that changed nothing publishes the same again, and has looked all the same.
	if succeeded && s.committed && !s.project.Syncer().IsBehind() && !s.lasted.IsZero() {
		s.looked(start, initialSync, swept)
	}
	s.wait(time.Millisecond)
	return succeeded
}

// scans returns what the syncer knows of full scans.
func (s *simulation) scans() (state struct {
	LastFullScan time.Time
	Sweep        *struct{ Done bool }
},
) {
	b, err := s.project.Syncer().State()
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil {
		s.fail("%v", err)
	}
	return state
}

func (s *simulation) sweep(pages int) {
	for ; pages > 0 && s.project.Syncer().IsSweepDue(); pages-- {
		shot := s.project.Published()
		s.tell("sweep")
		if s.scans().Sweep == nil {
			s.sweepBegan = s.at
			s.wait(time.Millisecond)
		}
		more := false
		s.requests = 0
		if alive := s.survive(func() { more = s.project.Sweep(context.Background()) }); !alive {
			return
		}
		if !isSame(s.project.Published(), shot) {
			s.fail("a sweep published numbers")
		}
		if !more {
			return
		}
	}
}

// rest lets things settle, and compares what was counted with the truth.
func (s *simulation) rest() {
	s.goElsewhere(0)
	s.calm, s.badness, s.down, s.wrong, s.full = true, 0, 0, 0, 0
	for id := range s.dims {
		s.opper.Heal(id)
	}
	clear(s.dims)
	s.tell("rest")
	began := s.at
	s.goodSince = s.at
	pauses := []time.Duration{31 * time.Second, s.cfg.AbandonAfter * 3 / 2, 31 * time.Second, s.cfg.AbandonAfter * 3 / 2, 31 * time.Second}
	if s.ours != 0 || !s.clockSet.IsZero() {
		pauses = append([]time.Duration{6 * time.Hour}, pauses...)
	}
	for _, pause := range pauses {
		s.wait(pause)
		s.sync()
		s.sweep(100)
	}
	for n := 0; n < rereadSyncs && !s.blind.IsZero(); n++ {
		s.wait(rereadSoon / rereadSyncs)
		s.sync()
	}
	// A place that is free after one sync may be taken in the next by what the last
	// sweep found, which that one exposes at 0, and the one after counts. A list may also
	// be refused until all that was listed before can have expired.
	good := 0
	for n := 0; n < 10 && good < 3; n++ {
		s.wait(31 * time.Second)
		s.sync()
		if good++; s.failing {
			good = 0
		}
	}
	s.readCosts()
	s.readCosts()
	s.wait(31 * time.Second)
	s.sync()
	if s.strict = good == 3 && !s.failing; s.strict {
		s.compare()
		s.checkExpired()
	}
	s.check()
	s.checkLateEnds(began)
	if gaps := s.totals["opper_exporter_gaps_total{}"]; s.quiet && gaps > 0 {
		s.fail("%d gaps", gaps)
	}
}
