package oppertest

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// Agent describes the traces of one agent. Ratios run from 0 to 1.
type Agent struct {
	Name    string
	Rate    float64       // traces a second, on average
	Median  time.Duration // of the durations, which are log-normal
	Spread  float64       // standard deviation of the logarithm of the duration
	Failure float64       // ratio that ends in error
	Tokens  float64       // median of the token counts; 0 means that there are none

	Model    Model   // what is called, if there are tokens; without a name, nothing is
	Untraced float64 // ratio of traces beside which as much is used without a trace

	Running   float64 // ratio that is listed from its start on; the others appear when they end
	NeverEnds float64 // ratio that is listed and then stays open
	Rename    float64 // ratio that is listed without a name, and named within its duration

	LateTokens      time.Duration // after the end, on average
	LateTokensRatio float64
	LateStatus      time.Duration
	LateStatusRatio float64
	BackDate        time.Duration // the client's clock is slow by up to this

	// For IncidentFor of every IncidentEvery, beginning at IncidentPhase
	// into it, the failure ratio is IncidentFailure.
	IncidentEvery, IncidentFor, IncidentPhase time.Duration
	IncidentFailure                           float64
}

func (a *Agent) failure(t time.Time) float64 {
	if a.IncidentEvery <= 0 {
		return a.Failure
	}
	every := a.IncidentEvery.Nanoseconds()
	into := ((t.UnixNano()-a.IncidentPhase.Nanoseconds())%every + every) % every
	if into < a.IncidentFor.Nanoseconds() {
		return a.IncidentFailure
	}
	return a.Failure
}

// DefaultAgents is a dozen believable agents, about two traces a second
// together. Every four minutes another of them has an incident of 90 seconds.
func DefaultAgents() []Agent {
	mini := Model{"openai/gpt-4o-mini", 150, 600}
	small := Model{"mistral/mistral-small", 100, 300}
	flash := Model{"gcp/gemini-2.5-flash", 300, 2500}
	sonnet := Model{"anthropic/claude-sonnet-4", 3000, 15_000}
	large := Model{"openai/gpt-4o", 2500, 10_000}
	agents := []Agent{
		{Name: "support-triage", Rate: 0.5, Median: 1800 * time.Millisecond, Spread: 0.6, Failure: 0.01, Tokens: 900, Model: mini},
		{Name: "product-search", Rate: 0.4, Median: 450 * time.Millisecond, Spread: 0.5, Failure: 0.005, Tokens: 250, Model: small},
		{Name: "translation", Rate: 0.3, Median: 1200 * time.Millisecond, Spread: 0.4, Failure: 0.005, Tokens: 1100, Model: small},
		{Name: "lead-scoring", Rate: 0.2, Median: 800 * time.Millisecond, Spread: 0.5, Failure: 0.02, Tokens: 400, Model: mini},
		{Name: "image-captioner", Rate: 0.15, Median: 2500 * time.Millisecond, Spread: 0.3, Failure: 0.03, Tokens: 180, Model: flash},
		{Name: "sql-analyst", Rate: 0.12, Median: 6 * time.Second, Spread: 0.9, Failure: 0.08, Tokens: 3500, Model: sonnet},
		{Name: "invoice-extractor", Rate: 0.1, Median: 4 * time.Second, Spread: 0.5, Failure: 0.02, Tokens: 2600, Model: flash},
		{Name: "meeting-notes", Rate: 0.06, Median: 15 * time.Second, Spread: 0.6, Failure: 0.01, Tokens: 14000, Model: flash},
		{Name: "code-review", Rate: 0.05, Median: 25 * time.Second, Spread: 0.7, Failure: 0.04, Tokens: 22000, Model: sonnet},
		{Name: "contract-redliner", Rate: 0.03, Median: 50 * time.Second, Spread: 0.6, Failure: 0.03, Tokens: 40000, Model: large},
		{Name: "research-agent", Rate: 0.03, Median: 90 * time.Second, Spread: 0.8, Failure: 0.1, Tokens: 120000, Model: large, NeverEnds: 0.02},
		{Name: "nightly-report", Rate: 0.01, Median: 4 * time.Minute, Spread: 0.4, Failure: 0.02, Tokens: 60000, Model: sonnet},
	}
	for i := range agents {
		a := &agents[i]
		a.Running = 0.7
		a.Rename = 0.02
		a.LateTokens, a.LateTokensRatio = 5*time.Second, 0.2
		a.LateStatus, a.LateStatusRatio = 3*time.Second, 0.05
		a.BackDate = 2 * time.Second
		a.Untraced = 0.05
		a.IncidentEvery = time.Duration(len(agents)) * 4 * time.Minute
		a.IncidentPhase = time.Duration(i) * 4 * time.Minute
		a.IncidentFor = 90 * time.Second
		a.IncidentFailure = 0.6
	}
	return agents
}

// Traffic generates the traces of some agents. It has no goroutine and no clock: what
// happens depends only on the seed and on the times given, however the time
// is cut into steps. Do not call its methods concurrently.
type Traffic struct {
	server  *Server
	agents  []Agent
	seed    uint64
	rng     *rand.Rand
	queue   events
	seq     int
	started bool
	// past is set while a history is generated: changes then take effect at
	// the time of their event, not when they are made.
	past  bool
	usage []Call // those of one trace
}

// NewTraffic makes the traffic of some agents; nothing happens before the
// first Step or Backfill.
func NewTraffic(s *Server, agents []Agent, seed int64) *Traffic {
	return &Traffic{server: s, agents: agents, seed: uint64(seed), rng: rand.New(rand.NewPCG(uint64(seed), 2))}
}

// Step does everything that is due until now. The first step (without a
// Backfill before it) only sets the time at which the traffic begins. The
// server's own clock says when a change became visible.
func (t *Traffic) Step(now time.Time) { t.advance(now, now) }

// Backfill lays down what the agents did between from and to, as if the
// server had been there all the time. Call it before the first Step, on an
// empty server whose clock is not before to.
func (t *Traffic) Backfill(from, to time.Time) {
	t.past = true
	t.advance(from, to)
	t.past = false
}

func (t *Traffic) advance(origin, until time.Time) {
	if !t.started {
		t.started = true
		for i := range t.agents {
			t.expect(&t.agents[i], origin)
		}
	}
	for len(t.queue) > 0 && !t.queue[0].at.After(until) {
		e := heap.Pop(&t.queue).(event)
		e.do()
	}
}

func (t *Traffic) at(at time.Time, do func()) {
	t.seq++
	heap.Push(&t.queue, event{at, t.seq, do})
}

func (t *Traffic) expect(a *Agent, after time.Time) {
	if a.Rate <= 0 {
		return
	}
	at := after.Add(seconds(t.rng.ExpFloat64() / a.Rate))
	t.at(at, func() {
		t.begin(a, at)
		t.expect(a, at)
	})
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// begin decides all that will become of a trace, so that its random numbers
// do not depend on what else happens.
func (t *Traffic) begin(a *Agent, at time.Time) {
	rng := t.rng
	id := string(appendUUID(nil, rng))
	ms := math.Round(a.Median.Seconds() * 1000 * math.Exp(a.Spread*rng.NormFloat64()))
	length := seconds(ms / 1000)
	start := at.Add(-seconds(a.BackDate.Seconds() * rng.Float64()))
	end := start.Add(length)
	status := "success"
	if rng.Float64() < a.failure(at) {
		status = "error"
	}
	var tokens *int64
	if a.Tokens > 0 {
		tokens = new(int64(a.Tokens * math.Exp(0.5*rng.NormFloat64())))
	}
	running := rng.Float64() < a.Running
	neverEnds := rng.Float64() < a.NeverEnds
	renamed := rng.Float64() < a.Rename
	lateTokens := rng.Float64() < a.LateTokensRatio
	lateStatus := rng.Float64() < a.LateStatusRatio
	delay := func(mean time.Duration) time.Duration { return seconds(mean.Seconds() * (0.5 + rng.Float64())) }
	tokensAfter, statusAfter := delay(a.LateTokens), delay(a.LateStatus)
	renameAfter := seconds(length.Seconds() * rng.Float64())

	if tokens != nil {
		t.call(a, id, at, length, *tokens)
	}

	open := Trace{ID: id, Start: &start, Name: &a.Name}
	if renamed {
		open.Name = nil
	}
	finish := func(trace *Trace) {
		trace.End, trace.DurationMS = &end, &ms
		if !lateStatus {
			trace.Status = &status
		}
		if !lateTokens {
			trace.Tokens = tokens
		}
	}

	listed, ended := at, at.Add(length)
	if running || neverEnds {
		t.add(at, open)
		if !neverEnds {
			t.at(ended, func() { t.update(ended, id, finish) })
		}
	} else {
		listed = ended
		finish(&open)
		t.at(ended, func() { t.add(ended, open) })
	}
	later := func(due time.Time, change func(*Trace)) {
		t.at(due, func() { t.update(due, id, change) })
	}
	if renamed {
		later(listed.Add(renameAfter), func(trace *Trace) { trace.Name = &a.Name })
	}
	if neverEnds {
		return
	}
	if lateTokens {
		later(ended.Add(tokensAfter), func(trace *Trace) { trace.Tokens = tokens })
	}
	if lateStatus {
		later(ended.Add(statusAfter), func(trace *Trace) { trace.Status = &status })
	}
}

func (t *Traffic) add(at time.Time, trace Trace) {
	if !t.past {
		t.server.Add(trace)
		return
	}
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	t.server.add(micros(at), trace)
}

func (t *Traffic) update(at time.Time, id string, change func(*Trace)) {
	if !t.past {
		t.server.Update(id, change)
		return
	}
	t.server.mu.Lock()
	defer t.server.mu.Unlock()
	// What had expired by then cannot change.
	t.server.expire(micros(at))
	t.server.update(micros(at), id, change)
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
