package statuspage

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"opper_exporter/collector/status"
)

// view is what the page says about a project.
type view struct {
	status.Project
	Badge    badge
	Outcomes []outcome
	Counted  uint64
	Good     uint64 // those that succeeded
	Unmapped uint64 // those with a status in neither list
	Rates    *rates
	Failed   []failedTrace
	Refused  []status.Code // requests that did not get a 200
	Cost     *cost
	NoTraces bool // Opper lists none, but the account has usage
}

// The levels of a badge, which are classes of the style. The worst is the first.
const (
	bad  = "bad"
	busy = "busy"
	good = "good"
)

// badge says in a few words how a project is.
type badge struct {
	Level string
	Word  string
	Since time.Time // zero if that is not known
	Text  string
}

// outcome is a part of the bar of outcomes, in percent of its width.
type outcome struct {
	status.Outcome
	At, Width float64
}

// rates are those of the last minutes.
type rates struct {
	Over            time.Duration
	Requests, Bytes float64 // per minute
}

// failedTrace is one of the last failures.
type failedTrace struct {
	status.Failure
	URL string // empty makes no link
}

func newView(cfg Config, p status.Project, now time.Time) view {
	v := view{Project: p, Badge: newBadge(&p, now)}
	for _, c := range p.Traffic.Codes {
		if c.Code != "200" && c.Requests > 0 {
			v.Refused = append(v.Refused, c)
		}
	}
	if r := p.Traffic.Recent; r.Over >= time.Second {
		v.Rates = &rates{Over: r.Over, Requests: float64(r.Requests) / r.Over.Minutes(), Bytes: r.Bytes / r.Over.Minutes()}
	}
	v.Cost = newCost(p.Usage)
	if p.Published == nil {
		return v
	}
	for _, o := range p.Published.Outcomes {
		v.Counted += o.Traces
		if o.Name == "success" {
			v.Good = o.Traces
		}
	}
	for _, u := range p.Published.Unmapped {
		if !u.MapsNow {
			v.Unmapped += u.Traces
		}
	}
	v.NoTraces = v.Counted == 0 && p.Published.Listed == 0 && v.Cost != nil && len(v.Cost.Top) > 0
	at := 0.0
	for _, o := range p.Published.Outcomes {
		part := outcome{Outcome: o, At: at}
		if v.Counted > 0 {
			part.Width = float64(o.Traces) / float64(v.Counted) * 100
		}
		at += part.Width
		v.Outcomes = append(v.Outcomes, part)
	}
	for _, f := range p.Published.Failures {
		v.Failed = append(v.Failed, failedTrace{f, traceURL(cfg.TraceURL, f.ID)})
	}
	return v
}

func newBadge(p *status.Project, now time.Time) badge {
	switch {
	case p.Sync.Unanswered > 0:
		return badge{Level: bad, Word: "Stalled", Text: "no answer from Opper for " + duration(p.Sync.Unanswered)}
	case !p.Sync.FailingSince.IsZero():
		return badge{Level: bad, Word: "Failing", Since: p.Sync.FailingSince, Text: p.Sync.LastError}
	case p.Initial != nil:
		return badge{Level: busy, Word: "Initial sync", Text: progressText(p.Initial, now)}
	case !p.Sync.Up:
		return badge{Level: busy, Word: "Waiting for a sync", Text: "the last one that succeeded was " + age(p.Sync.LastSuccess, now)}
	}
	return badge{Level: good, Word: "Collecting", Text: "last sync " + age(p.Sync.LastSuccess, now)}
}

func progressText(i *status.InitialSync, now time.Time) string {
	switch {
	case i.Read == 0:
		return "waiting for Opper"
	case i.Total == 0:
		return count(i.Read) + " traces read"
	}
	text := fmt.Sprintf("%d %%", min(i.Read, i.Total)*100/i.Total)
	if left := i.Left(now); left > 0 {
		text += ", " + roughly(left) + " left"
	}
	return text
}

// traceURL returns the address of a trace. An id may hold anything: all that has a
// meaning in an address is escaped.
func traceURL(pattern, id string) string {
	if pattern == "" || id == "" {
		return ""
	}
	return strings.ReplaceAll(pattern, "{id}", strings.ReplaceAll(url.QueryEscape(id), "+", "%20"))
}
