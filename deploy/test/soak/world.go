package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"opper_exporter/opper/oppertest"
)

// Durations of a soak of an hour.
const (
	retention     = 15 * time.Minute
	interval      = 5 * time.Second
	settleDelay   = 10 * time.Second
	sweepInterval = 90 * time.Second
	abandonAfter  = 10 * time.Minute
)

// world is Opper with its list, another project's, and the traffic of the
// agents.
type world struct {
	*settings
	opper, foreign *oppertest.Server
	usage          *oppertest.Usage // nil if it is left out
	*upstream
	byStart, expireByStart bool
	names                  []string
	total                  totalCount

	http    *http.Server
	url     string
	stop    context.CancelFunc
	ended   sync.WaitGroup
	traffic *oppertest.Traffic
}

func newWorld(ctx context.Context, s *settings, tl *timeline) (*world, error) {
	w := &world{settings: s}
	rng := rand.New(rand.NewPCG(uint64(s.seed), 1))
	w.byStart = s.sortBy == "start" || s.sortBy == "any" && rng.IntN(2) == 0
	w.expireByStart = w.byStart && rng.IntN(2) == 0
	cfg := oppertest.Config{
		Seed: s.seed, Retention: s.scaled(retention), ExpireByStart: w.expireByStart, BodyBytes: 200,
		Latency: 2 * time.Millisecond, TotalCount: w.total.of,
	}
	if w.byStart {
		cfg.SortBy = oppertest.ByStart
	}
	if s.has("usage") {
		w.usage = oppertest.NewUsage(oppertest.UsageConfig{Seed: s.seed})
		w.usage.SetTroubles(s.usageTroubles())
		w.usage.SetBudget(project, oppertest.Budget{LimitCents: new(int64(100_00))})
		cfg.Usage, cfg.Project = w.usage, project
	}
	w.opper = oppertest.New(cfg)
	w.foreign = oppertest.New(oppertest.Config{Seed: s.seed + 1})
	for i := range 150 {
		t := newTrace(rng, fmt.Sprintf("foreign-%d", i%3), time.Duration(i)*time.Second)
		t.ID = newID(rng)
		w.foreign.Add(t)
	}
	agents := w.agents()
	for _, a := range agents {
		w.names = append(w.names, a.Name)
	}
	w.traffic = oppertest.NewTraffic(w.opper, agents, s.seed)
	now := time.Now()
	w.traffic.Backfill(now.Add(-s.scaled(retention)), now)
	w.upstream = newUpstream(w.opper, tl)

	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.url = "http://" + listener.Addr().String()
	w.http = &http.Server{Handler: w.upstream, ReadHeaderTimeout: time.Minute}
	w.ended.Go(func() { _ = w.http.Serve(listener) }) // ends when it is closed
	ctx, w.stop = context.WithCancel(ctx)
	w.ended.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				w.traffic.Step(now)
			}
		}
	})
	return w, nil
}

// agents are those of the demo, as much faster as the soak is shorter, so that
// the list is always about as long.
func (w *world) agents() []oppertest.Agent {
	speed := float64(time.Hour) / float64(w.scaled(time.Hour))
	agents := oppertest.DefaultAgents()
	for i := range agents {
		a := &agents[i]
		a.Rate *= speed
		for _, d := range []*time.Duration{
			&a.Median, &a.LateTokens, &a.LateStatus, &a.BackDate, &a.IncidentEvery, &a.IncidentFor, &a.IncidentPhase,
		} {
			*d = time.Duration(float64(*d) / speed)
		}
		a.NeverEnds = max(a.NeverEnds, 0.003)
	}
	return agents
}

func (w *world) order() string {
	if w.byStart {
		return "start"
	}
	return "arrival"
}

// String describes it to a person.
func (w *world) String() string {
	expiry := "arrival"
	if w.expireByStart {
		expiry = "start"
	}
	return fmt.Sprintf("%d traces are listed, sorted by %s, and leave %s after their %s; interval %s, settle delay %s, sweep interval %s, abandon after %s",
		w.opper.Len(), w.order(), w.scaled(retention), expiry, w.scaled(interval), w.scaled(settleDelay), w.scaled(sweepInterval), w.scaled(abandonAfter))
}

// calm ends the traffic, and with it what may keep usage from being read.
func (w *world) calm() {
	w.stop()
	if w.usage != nil {
		t := w.usageTroubles()
		t.Errors = 0
		w.usage.SetTroubles(t)
	}
}

func (w *world) close() {
	w.stop()
	_ = w.http.Close() // nothing that could still be done about it
	w.ended.Wait()
}

func newID(rng *rand.Rand) string {
	var b [16]byte
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newTrace makes an ended trace that began so long ago.
func newTrace(rng *rand.Rand, name string, ago time.Duration) oppertest.Trace {
	start := time.Now().Add(-ago).UTC()
	ms := float64(1 + rng.IntN(20_000))
	end := start.Add(time.Duration(ms) * time.Millisecond)
	status := []string{"success", "ok", "error", "failed", "COMPLETED", "weird \"status\"\n"}[rng.IntN(6)]
	return oppertest.Trace{ID: newID(rng), Name: &name, Status: &status, Start: &start, End: &end, DurationMS: &ms, Tokens: new(rng.Int64N(5000))}
}

// hostileNames are names that labels, files and terminals may trip over. None
// is so long that the exporter may cut it before it makes a label of it.
var hostileNames = []string{
	"", "(other)", `\(other)`, `back\slash`, `"quoted" {name="x"}`, "line\nbreak\r\n", "nul\x00byte", "# EOF", "# HELP opper_up x", "日本語 🙂", "\u202ertl",
	"<script>alert(1)</script>", "cut~0123abcd", strings.Repeat("x", 128), strings.Repeat("é", 300), strings.Repeat("long ", 800), " ", "NaN", "le", "\uFFFD",
}

// hostileDates are client times that no clock should show.
var hostileDates = []time.Time{
	time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC),
	time.Date(1600, 2, 29, 12, 0, 0, 0, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Unix(0, 0).UTC(),
	time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// burst lists so many traces at once. Some of them are running, and end later.
func (w *world) burst(rng *rand.Rand, n int) {
	traces := make([]oppertest.Trace, n)
	for i := range traces {
		t := newTrace(rng, pick(rng, w.names), time.Duration(rng.Int64N(int64(w.scaled(time.Minute)))))
		if rng.IntN(10) == 0 {
			w.endLater(rng, &t)
		}
		traces[i] = t
	}
	w.opper.Add(traces...)
}

// endLater makes a trace a running one, and lets it end after a while.
func (w *world) endLater(rng *rand.Rand, t *oppertest.Trace) {
	id, status := t.ID, t.Status
	t.End, t.Status, t.DurationMS = nil, nil, nil
	time.AfterFunc(time.Duration(rng.Int64N(int64(w.scaled(2*time.Minute)))), func() {
		w.opper.Update(id, func(t *oppertest.Trace) { t.End, t.Status = new(time.Now().UTC()), status })
	})
}

// backDate lists traces that began, and ended, up to almost the retention ago.
func (w *world) backDate(rng *rand.Rand, n int) {
	for range n {
		w.opper.Add(newTrace(rng, pick(rng, w.names), time.Duration(float64(w.scaled(retention))*rng.Float64()*0.9)))
	}
}

// hostile lists traces with hostile names or dates.
func (w *world) hostile(rng *rand.Rand, n int, dates bool) {
	for range n {
		t := newTrace(rng, pick(rng, w.names), 0)
		if !dates {
			t.Name = new(pick(rng, hostileNames))
			t.Status = new(pick(rng, hostileNames))
			w.opper.Add(t)
			continue
		}
		t.End = new(pick(rng, hostileDates))
		if rng.IntN(2) == 0 {
			t.Start = new(pick(rng, hostileDates))
		}
		if rng.IntN(3) == 0 {
			t.DurationMS = nil
		}
		w.opper.Add(t)
	}
}

// rename gives other names to some traces.
func (w *world) rename(rng *rand.Rand, n int) {
	for _, t := range w.some(rng, n) {
		w.opper.Update(t.ID, func(t *oppertest.Trace) { t.Name = new(pick(rng, w.names)) })
	}
}

// remove deletes some traces. A few of them come back.
func (w *world) remove(rng *rand.Rand, n int) {
	for _, t := range w.some(rng, n) {
		if w.opper.Delete(t.ID) > 0 && rng.IntN(10) == 0 {
			time.AfterFunc(w.scaled(30*time.Second), func() { w.opper.Add(t) })
		}
	}
}

// some returns listed traces, none twice.
func (w *world) some(rng *rand.Rand, n int) []oppertest.Trace {
	listed := w.opper.Snapshot()
	rng.Shuffle(len(listed), func(i, j int) { listed[i], listed[j] = listed[j], listed[i] })
	return listed[:min(n, len(listed))]
}

// totalCount is what meta.total_count says.
type totalCount struct {
	mu  sync.Mutex
	say func(int) *int
}

func (t *totalCount) set(say func(int) *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.say = say
}

func (t *totalCount) of(n int) *int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.say == nil {
		return &n
	}
	return t.say(n)
}
