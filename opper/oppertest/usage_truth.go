package oppertest

import (
	"math"
	"time"
)

// ModelKey is a model in an Opper project. Either is "" if it is null.
type ModelKey struct{ Project, Model string }

// HourKey is a model in an hour.
type HourKey struct {
	Hour time.Time
	ModelKey
}

// ByHour is the usage of all projects as it shows now: all of it, and nothing twice,
// whatever the troubles of answers are.
func (u *Usage) ByHour() map[HourKey]Amounts { return u.byHour(math.MinInt64, math.MaxInt64) }

// ByHourBetween is ByHour of a window.
func (u *Usage) ByHourBetween(from, to time.Time) map[HourKey]Amounts {
	return u.byHour(from.Unix(), to.Unix())
}

func (u *Usage) byHour(from, to int64) map[HourKey]Amounts {
	u.mu.Lock()
	defer u.mu.Unlock()
	sums := map[HourKey]Amounts{}
	u.each(u.cfg.Now(), from, to, func(e *entry, a Amounts) {
		k := HourKey{time.Unix(e.at, 0).UTC().Truncate(time.Hour), ModelKey{textOr(e.project), textOr(e.model)}}
		sum := sums[k]
		sum.add(a, 1)
		sums[k] = sum
	})
	return sums
}

// ByModel is ByHour, summed up over all hours.
func (u *Usage) ByModel() map[ModelKey]Amounts { return overHours(u.ByHour()) }

// ByTrace is the usage of each trace as it shows now.
func (u *Usage) ByTrace() map[string]Amounts {
	u.mu.Lock()
	defer u.mu.Unlock()
	sums := map[string]Amounts{}
	u.each(u.cfg.Now(), math.MinInt64, math.MaxInt64, func(e *entry, a Amounts) {
		if e.trace != "" {
			sum := sums[e.trace]
			sum.add(a, 1)
			sums[e.trace] = sum
		}
	})
	return sums
}

// HighestUsage is what a reader has that adds up only increases: for each hour, Opper
// project and model, the highest amounts that this server ever served, over all hours.
// An answer counts as served if it is by hour, model and project, whole, and no fault
// took its place; so does an hour of which it holds a part, with that part. None is
// recorded with NoRecord.
func (s *Server) HighestUsage() map[ModelKey]Amounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return overHours(s.usageServed)
}

func overHours(hours map[HourKey]Amounts) map[ModelKey]Amounts {
	sums := map[ModelKey]Amounts{}
	for k, a := range hours {
		sum := sums[k.ModelKey]
		sum.add(a, 1)
		sums[k.ModelKey] = sum
	}
	return sums
}

func textOr(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
