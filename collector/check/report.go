package check

import (
	"cmp"
	"math"
	"slices"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

// Report is what was found of one project.
type Report struct {
	Project  string    `json:"project"`
	URL      string    `json:"url"`
	Filter   string    `json:"name_filter,omitempty"`
	Key      Key       `json:"key"`
	Sample   Sample    `json:"sample"`
	State    State     `json:"state"`
	List     *List     `json:"list,omitempty"`    // absent if nothing was read
	Traffic  *Traffic  `json:"traffic,omitempty"` // absent if there is no trace
	Usage    *Usage    `json:"usage,omitempty"`   // absent if it is switched off, or nothing was read
	Problems []Finding `json:"problems"`
	Notes    []Finding `json:"notes"` // what is worth to know, but not wrong
}

// Finding is something that was found, and what to do about it.
type Finding struct {
	Text   string   `json:"text"`
	Advice string   `json:"advice"`
	Flags  []string `json:"flags,omitempty"` // that the advice suggests, quoted for a shell
}

// Key says what became of the key. It does not hold it.
type Key struct {
	Origin   string `json:"origin"`
	Accepted *bool  `json:"accepted"` // null if Opper was not reached
}

// Sample says what was read.
type Sample struct {
	Requests int     `json:"requests"` // retries included
	Planned  int     `json:"planned_pages"`
	Traces   int     `json:"traces"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Complete bool    `json:"complete"` // all that is listed was read
	Stopped  bool    `json:"stopped"`  // the time was up
}

// List says what is in the list, as far as it was read.
type List struct {
	Listed    *int       `json:"listed"` // null if Opper does not say
	Oldest    *time.Time `json:"oldest_start"`
	Newest    *time.Time `json:"newest_start"`
	Order     string     `json:"order"`
	Ended     int        `json:"ended"`
	Open      int        `json:"open"`
	NoID      int        `json:"without_id"`
	Excluded  int        `json:"excluded"` // by their names
	Statuses  []Status   `json:"statuses"` // of those that ended; most traces first
	Names     []Name     `json:"names"`    // most traces first
	MaxNames  int        `json:"max_names"`
	NoTokens  int        `json:"tokens_missing"`     // of those that ended
	NoLength  int        `json:"durations_missing"`  // of those that ended
	BadLength int        `json:"durations_negative"` // of those that ended
}

// The orders of a list.
const (
	newestFirst = "newest first"
	newestLast  = "oldest first"
	unsorted    = "not sorted by time"
	tooFew      = "too few traces to tell"
)

// Status is a status of traces that ended.
type Status struct {
	Status  string `json:"status"` // empty if there is none
	Traces  int    `json:"traces"`
	Outcome string `json:"outcome"`
	Mapped  bool   `json:"mapped"` // it is in one of the lists
}

// Name is a value of the label trace_name.
type Name struct {
	Name   string `json:"name"`
	Traces int    `json:"traces"`
}

// Traffic estimates what the exporter asks of Opper.
type Traffic struct {
	TraceBytes      float64 `json:"bytes_per_trace"`
	PageBytes       float64 `json:"bytes_per_page"`
	PageSeconds     float64 `json:"seconds_per_page"`
	InitialRequests int     `json:"initial_sync_requests"`
	InitialBytes    float64 `json:"initial_sync_bytes"`
	InitialSeconds  float64 `json:"initial_sync_seconds"`
	IdleBytes       float64 `json:"idle_bytes_per_day"`  // sweeps included
	SweepBytes      float64 `json:"sweep_bytes_per_day"` // of all full scans
	TracesPerDay    float64 `json:"traces_per_day"`      // at the rate of the newest that were read
	BusyBytes       float64 `json:"bytes_per_day"`       // at that rate
}

const (
	// newPages is how often the page of a new trace is read: when it is new, and when
	// it settles.
	newPages = 2
	// scrapeInterval stands for the interval of syncs where each scrape is one.
	scrapeInterval = 30 * time.Second

	day = 24 * time.Hour
)

// newList describes the traces of a sample.
func newList(s *sample, cfg *aggregate.Config) *List {
	l := &List{Order: order(s), MaxNames: cfg.MaxNames, Statuses: []Status{}, Names: []Name{}}
	if s.total >= 0 {
		l.Listed = &s.total
	}
	statuses, names := map[Status]int{}, map[string]int{}
	for _, t := range s.traces() {
		if t.ID == "" {
			l.NoID++
			continue
		}
		if !t.Start.IsZero() {
			if l.Oldest == nil || t.Start.Before(*l.Oldest) {
				l.Oldest = &t.Start
			}
			if l.Newest == nil || t.Start.After(*l.Newest) {
				l.Newest = &t.Start
			}
		}
		label, included := cfg.Label(t.Name)
		if !included {
			l.Excluded++
			continue
		}
		names[printable(label)]++
		if t.End.IsZero() {
			l.Open++
			continue
		}
		l.Ended++
		statuses[statusOf(t, cfg)]++
		l.NoTokens += count(!t.HasTokens)
		l.NoLength += count(!t.HasDuration)
		l.BadLength += count(t.HasDuration && t.Duration < 0)
	}
	for status, n := range statuses {
		status.Traces = n
		l.Statuses = append(l.Statuses, status)
	}
	slices.SortFunc(l.Statuses, func(a, b Status) int {
		return cmp.Or(cmp.Compare(b.Traces, a.Traces), cmp.Compare(a.Status, b.Status))
	})
	for name, n := range names {
		l.Names = append(l.Names, Name{name, n})
	}
	slices.SortFunc(l.Names, func(a, b Name) int {
		return cmp.Or(cmp.Compare(b.Traces, a.Traces), cmp.Compare(a.Name, b.Name))
	})
	return l
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

func statusOf(t *opper.Trace, cfg *aggregate.Config) Status {
	if !t.HasStatus {
		return Status{Outcome: aggregate.Unknown.String()}
	}
	outcome, mapped := cfg.Outcome(t.Status)
	return Status{Status: aggregate.StatusLabel(t.Status), Outcome: outcome.String(), Mapped: mapped}
}

func order(s *sample) string {
	var starts []time.Time
	for _, t := range s.traces() {
		starts = append(starts, t.Start)
	}
	switch sorted, isLast := syncer.Order(starts); {
	case sorted && isLast:
		return newestLast
	case sorted:
		return newestFirst
	case s.complete && len(starts) < syncer.MinSample:
		return tooFew
	}
	return unsorted
}

// newTraffic estimates the traffic of a list that has at least one trace.
func newTraffic(s *sample, l *List, cfg *config.Project, now time.Time) *Traffic {
	listed := float64(max(s.total, s.rows))
	if s.complete {
		listed = float64(max(s.total, len(s.traces())))
	}
	t := &Traffic{TraceBytes: float64(s.received) / float64(s.rows), PageSeconds: s.slowest.Seconds()}
	t.PageBytes = t.TraceBytes * min(opper.PageSize, max(listed, 1))
	pages := math.Ceil(listed / (opper.PageSize - 1)) // one row is shared
	t.InitialRequests = int(pages) + 2                // the start is read again, and the end
	t.InitialBytes = t.TraceBytes * (listed + pages)
	t.InitialSeconds = float64(t.InitialRequests) * t.PageSeconds / float64(max(cfg.Concurrency, 1))
	if rate := cfg.Opper.RequestsPerSecond; rate > 0 {
		t.InitialSeconds = max(t.InitialSeconds, float64(t.InitialRequests)/rate)
	}

	interval := cfg.Interval
	if interval == 0 {
		interval = scrapeInterval
	}
	syncs := day.Seconds() / interval.Seconds()
	sweepPages, sweepRows := syncer.SweepReads(int(listed))
	reading := float64(sweepPages) * t.PageSeconds
	cycle := max(float64(sweepPages)*cfg.SweepPause.Seconds(), reading) + max(interval.Seconds(), syncer.FullScanPause*reading)
	if l.Order != unsorted || listed <= opper.PageSize {
		if cycle = max(cycle, cfg.SweepInterval.Seconds()); cfg.SweepInterval == 0 {
			cycle = math.Inf(1)
		}
	}
	t.SweepBytes = day.Seconds() / cycle * t.TraceBytes * float64(sweepRows)
	idle := syncer.IdleRows(int(listed), l.Order != unsorted, l.Order == newestLast, s.total >= 0)
	t.IdleBytes = syncs*t.TraceBytes*float64(idle) + t.SweepBytes

	t.TracesPerDay = tracesPerDay(s, l, now)
	perSync := t.TracesPerDay / syncs
	if perSync > 1 {
		perSync = math.Ceil(perSync / syncer.NewRowsPerPage)
	}
	t.BusyBytes = t.IdleBytes + syncs*perSync*newPages*t.PageBytes
	for _, x := range []*float64{&t.TraceBytes, &t.PageBytes, &t.InitialBytes, &t.IdleBytes, &t.SweepBytes, &t.BusyBytes} {
		*x = math.Round(*x)
	}
	return t
}

// tracesPerDay returns how many traces begin per day at the rate of the newest
// that were read.
func tracesPerDay(s *sample, l *List, now time.Time) float64 {
	isSorted := l.Order == newestFirst || l.Order == newestLast
	traces, listed := s.pages[0].traces, 0.
	if l.Order == newestLast {
		traces = s.pages[len(s.pages)-1].traces
	}
	if !isSorted {
		listed = float64(s.total)
		traces = nil
		for _, t := range s.traces() {
			traces = append(traces, *t)
		}
	}
	var ages []time.Duration
	for _, t := range traces {
		if !t.Start.IsZero() {
			ages = append(ages, now.Sub(t.Start))
		}
	}
	if len(ages) == 0 {
		return 0
	}
	// Half of them are younger than the median, which a few that were back-dated do
	// not change.
	slices.Sort(ages)
	age := max(ages[len(ages)/2], time.Minute)
	return max(float64(len(traces)), listed) / 2 * float64(day) / float64(age)
}
