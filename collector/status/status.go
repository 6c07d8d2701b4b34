// Package status holds what a project says about itself, in plain values. There is
// no key among them, and nothing of a trace but its name, its id and numbers.
package status

import "time"

// Project is the state of a project at one moment.
type Project struct {
	Name             string        // value of the label project
	URL, NameFilter  string        // where the list is read
	Interval         time.Duration // between syncs; 0 syncs on every scrape
	Success, Failure []string      // statuses that map to these outcomes
	MaxNames         int           // how many trace names have series of their own

	Sync      Sync
	Initial   *InitialSync // nil once it is published
	Traffic   Traffic
	Published *Published // nil before the first sync is published
	Usage     *Usage     // nil if it is switched off
}

// Sync says how the syncs of this process went.
type Sync struct {
	Up           bool          // opper_up
	LastSuccess  time.Time     // also of an earlier process; zero if there was none
	Took         time.Duration // the last sync that ended
	LastError    string        // of a sync or a commit; empty if none failed
	FailedAt     time.Time     // when that was
	FailingSince time.Time     // zero if the last one succeeded
	Unanswered   time.Duration // since Opper last answered, if that is too long; else 0
}

// InitialSync is the progress of a running initial sync.
type InitialSync struct {
	Read, Total int // rows; Total is 0 if Opper did not say
	// From is how many rows had been read at Began, so that an interrupted one that
	// continues is measured by what this process has read.
	From  int
	Began time.Time
}

// Left estimates how long the rest takes, 0 if that is not known yet.
func (i *InitialSync) Left(now time.Time) time.Duration {
	read, rest := i.Read-i.From, i.Total-i.Read
	if read <= 0 || rest <= 0 || !now.After(i.Began) {
		return 0
	}
	return time.Duration(float64(now.Sub(i.Began)) / float64(read) * float64(rest))
}

// Traffic counts requests to Opper, retries included, and the bytes of the
// responses.
type Traffic struct {
	Since  time.Time // start of the process
	Codes  []Code    // by code
	Bytes  float64
	Recent Recent
}

// Code is how often Opper answered with a status code, or error.
type Code struct {
	Code     string
	Requests uint64
}

// Requests returns how many requests there were.
func (t *Traffic) Requests() uint64 {
	var n uint64
	for _, c := range t.Codes {
		n += c.Requests
	}
	return n
}

// Recent is the traffic of the last minutes.
type Recent struct {
	Over     time.Duration
	Requests uint64
	Bytes    float64
}

// Published is what a sync published, as it is in the metrics.
type Published struct {
	Since    time.Time // when counting started from zero
	Listed   int       // negative if Opper does not say
	Open     int
	Outcomes []Outcome  // also of names that have expired
	Unmapped []Unmapped // statuses that map to no outcome

	Names       int     // with series of their own
	Distinct    float64 // seen; an estimate if there are many
	ZeroPending int     // names

	Gaps, NoID, VanishedOpen, Overflow uint64

	Failures []Failure // since the start of the process, the latest first
}

// Outcome is the number of traces with an outcome.
type Outcome struct {
	Name   string
	Traces uint64
}

// Unmapped is the number of traces with a status that maps to no outcome.
type Unmapped struct {
	Status  string
	Traces  uint64
	MapsNow bool // the lists were changed after these were counted
}

// Failure is a trace that failed or was abandoned.
type Failure struct {
	Name, ID    string // no ID if it cannot be shown
	Outcome     string
	Time        time.Time // its end, or the start of an abandoned one; zero if unknown
	Duration    time.Duration
	HasDuration bool
	Tokens      int64
	HasTokens   bool
}
