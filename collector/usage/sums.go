package usage

import (
	"hash/maphash"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

// sum is the usage that a configured project sees without any Opper project. It may be
// that of the whole organization, which the keys of others see as well: then their hours
// are the same.
type sum struct {
	sighting
	id        string   // see Set.sumID
	hours     []uint64 // digests, sorted
	isCounted bool     // by that project
	isDurable bool     // others may rely on it
	readAt    time.Time
	isDue     bool // it was time to decide when it was read last: others have read since
}

// decideSum returns whose the usage of these hours is that a configured project sees
// without Opper projects, and the other one that counts it, as which sum.
func (o *Owners) decideSum(project string, hours []uint64, now time.Time) (v verdict, owner, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, isConfigured := o.isAwaited[project]; !isConfigured {
		return undecided, "", ""
	}
	own := o.sums[project]
	if own == nil {
		own = &sum{}
		o.sums[project] = own
	}
	if len(own.hours) == 0 {
		own.since = now
	}
	own.hours = hours
	isFirst, isOld := true, false
	for name, other := range o.sums {
		if name == project || own.isCounted {
			continue
		}
		if !haveCommon(hours, other.hours) {
			// Its last hours may be others by now.
			isOld = isOld || other.isDurable && other.readAt.Before(own.since)
			continue
		}
		if other.isDurable {
			return notMine, name, other.id
		}
		if other.isCounted {
			return undecided, "", ""
		}
		isFirst = isFirst && project < name
	}
	mustWait := o.mustWait(&own.sighting, isFirst, now) || isOld && now.Sub(own.since) < awaitedFor || len(hours) == 0
	wasDue := own.isDue
	own.isDue = !mustWait
	if len(o.isAwaited) > 1 && (mustWait || !wasDue) {
		return undecided, "", ""
	}
	own.isCounted = true
	return mine, "", ""
}

// keepSum makes it durable that a project counts the usage of these hours, as it has read
// it at a time.
func (o *Owners) keepSum(project, id string, hours []uint64, readAt time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, isConfigured := o.isAwaited[project]; isConfigured {
		o.sums[project] = &sum{id: id, hours: hours, isCounted: true, isDurable: true, readAt: readAt}
	}
}

func (o *Owners) isConfigured(project string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, isConfigured := o.isAwaited[project]
	return isConfigured
}

func haveCommon(a, b []uint64) bool {
	for _, d := range a {
		if _, ok := slices.BinarySearch(b, d); ok {
			return true
		}
	}
	return false
}

// digests are fingerprints of the usage of hours. They add up, so that it does not
// matter in how many rows it stands.
type digests map[int64]uint64

var digestSeed = maphash.MakeSeed()

func (d digests) add(hour int64, model string, a Amounts) {
	type place struct {
		hour   int64
		model  string
		amount int
	}
	for i, n := range a {
		d[hour] += uint64(n) * maphash.Comparable(digestSeed, place{hour, model, i})
	}
}

// complete returns those of the hours that may not be final, without the present one, as
// that grows from one read to the next.
func (d digests) complete(newest, present int64) []uint64 {
	var hours []uint64
	for hour, digest := range d {
		if digest != 0 && hour >= min(newest, present)-finalAfter && hour < max(newest, present) {
			hours = append(hours, digest)
		}
	}
	slices.Sort(hours)
	return hours
}

// assignSum decides whether rows without any Opper project are counted here, of which
// nothing but the project's own is known.
func (s *Set) assignSum(rows []opper.Usage, newest int64, now time.Time) {
	d := digests{}
	for i := range rows {
		d.add(hourOf(rows[i].Bucket), aggregate.LabelOr(rows[i].Model, None), amounts(&rows[i]))
	}
	v, owner, id := s.cfg.Owners.decideSum(s.cfg.Project, d.complete(newest, hourOf(now)), now)
	switch v {
	case undecided:
		s.undecided = true
	case notMine:
		s.others[""], s.sumID = owner, id
	case mine, guessedMine:
		if s.sumID == "" {
			s.sumID = "sum of " + s.cfg.Project
		}
		delete(s.others, "")
		s.accounts[""] = ""
	}
}

// keepSum makes what assignSum has decided durable, as what is counted is by now.
func (s *Set) keepSum() {
	d := digests{}
	for hour, marks := range s.hours {
		for _, m := range marks {
			d.add(hour, m.model, m.high)
		}
	}
	s.cfg.Owners.keepSum(s.cfg.Project, s.sumID, d.complete(s.newest, hourOf(s.lastRead)), s.lastRead)
}

// isCountedElsewhere reports whether another project counts the same usage, as long as
// that one is configured.
func (s *Set) isCountedElsewhere() bool {
	return s.CountedBy() != "" && s.cfg.Owners.isConfigured(s.CountedBy())
}

// CountedBy returns the configured project that counts the same usage, which its key sees
// as well; empty if there is none.
func (s *Set) CountedBy() string { return s.others[""] }
