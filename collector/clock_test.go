package collector

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

const day = 24 * time.Hour

// host is a machine whose clock can be set.
type host struct {
	wall   time.Time
	passed time.Duration
	boot   string
	uptime time.Duration
}

func newHost() *host { return &host{wall: epoch, boot: "first", uptime: time.Hour} }

func (h *host) wait(d time.Duration) {
	h.wall, h.passed, h.uptime = h.wall.Add(d), h.passed+d, h.uptime+d
}

func (h *host) set(by time.Duration) { h.wall = h.wall.Add(by) }

func (h *host) clock() *Clock {
	return newClock(func() (time.Time, time.Duration) { return h.wall, h.passed }, func() (string, time.Duration) { return h.boot, h.uptime })
}

// An age is wrong by no more than a tenth, whatever the clock is set to, and a
// clock that is not set again is right in the end.
func TestAgesSurviveAnyClock(t *testing.T) {
	for _, step := range []time.Duration{0, time.Second, -time.Second, time.Hour, -time.Hour, day, -day, 20 * 365 * day} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			h := newHost()
			c := h.clock()
			h.wait(time.Minute)
			if now := c.Now(); !now.Equal(h.wall) {
				t.Errorf("%v off before the step", now.Sub(h.wall))
			}
			h.set(step)
			from := c.Now()
			if got := c.Wall(from); !got.Equal(h.wall) {
				t.Errorf("the step makes %v of %v", got, h.wall)
			}
			last := from
			for range 1000 {
				h.wait(time.Second)
				now := c.Now()
				if passed := now.Sub(last); passed < 9*time.Second/10 || passed > 11*time.Second/10 {
					t.Fatalf("%v pass in a second", passed)
				}
				last = now
			}
			h.wait(10 * step.Abs())
			if now := c.Now(); !now.Equal(h.wall) {
				t.Errorf("%v off in the end", now.Sub(h.wall))
			}
		})
	}
}

func TestClockRestored(t *testing.T) {
	for name, test := range map[string]struct {
		change func(h *host)
		off    time.Duration // from the system's clock
	}{
		"not set":                    {func(*host) {}, 0},
		"set forward":                {func(h *host) { h.set(day) }, -day},
		"set back":                   {func(h *host) { h.set(-day) }, day},
		"adjusted":                   {func(h *host) { h.set(5 * time.Second) }, 0},
		"set forward, and rebooted":  {func(h *host) { h.set(day); h.boot = "second" }, 0},
		"not known whether rebooted": {func(h *host) { h.set(day); h.boot = "" }, 0},
		"time since boot went back":  {func(h *host) { h.set(day); h.uptime = -30 * time.Minute }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost()
			st := h.clock().state()
			test.change(h)
			h.wait(time.Hour)
			h.uptime = h.uptime.Truncate(time.Second)
			c := h.clock()
			c.restore(st)
			if off := c.Now().Sub(h.wall); off != test.off {
				t.Errorf("%v off, want %v", off, test.off)
			}
		})
	}
}

// newHostBench returns a project that has nothing but the clock of the host.
func newHostBench(t *testing.T, b *bench, h *host, stored Store) *project {
	t.Helper()
	cfg := setup{Project: b.project.cfg, Deps: b.project.deps, source: b.project.source}
	cfg.Clock, cfg.Store = h.clock(), stored
	return newTestProject(t, cfg, newInstrumentation(cfg.Name, cfg.NativeHistograms))
}

// A clock that is set by a day abandons nothing that runs, in this process or
// the next, and delays nothing that has ended.
func TestClockStepAbandonsNothing(t *testing.T) {
	for _, step := range []time.Duration{day, -day} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprint(step, restarted), func(t *testing.T) {
				b, h := newBench(t, oppertest.Config{}, testConfig()), newHost()
				stored := new(storetest.Memory)
				p := newHostBench(t, b, h, stored)
				p.sync(context.Background())
				running := oppertest.Sample()
				running.Raw, running.ID, running.Start, running.End = nil, "running", new(h.wall), nil
				ended := oppertest.Sample()
				ended.Raw, ended.ID, ended.Start, ended.End = nil, "ended", new(h.wall), new(h.wall.Add(time.Second))
				b.opper.Add(running)
				b.opper.Add(ended)
				h.wait(2 * time.Second)
				b.step(2 * time.Second)
				p.sync(context.Background())

				h.set(step)
				if restarted {
					p = newHostBench(t, b, h, stored)
				}
				h.wait(settle * 6 / 5)
				b.step(settle * 6 / 5)
				p.sync(context.Background())
				if text := tallies(p); text != "unknown 1" {
					t.Errorf("counted: %s", text)
				}
				if p.lastSuccess != h.wall {
					t.Errorf("the last success is %v off", p.lastSuccess.Sub(h.wall))
				}
				// It is abandoned when it is as old as that.
				h.wait(abandon * 11 / 10)
				b.step(abandon * 11 / 10)
				p.sync(context.Background())
				if text := tallies(p); text != "unknown 1 abandoned 1" {
					t.Errorf("counted in the end: %s", text)
				}
			})
		}
	}
}

// tallies lists what was counted, by outcome.
func tallies(p *project) string {
	var got []string
	for _, n := range p.aggregates.All() {
		for outcome, totals := range n.ByOutcome {
			if totals.Traces > 0 {
				got = append(got, fmt.Sprint(aggregate.Outcome(outcome), " ", totals.Traces))
			}
		}
	}
	return strings.Join(got, " ")
}

// The clock of a machine is known by its boot, as far as it tells.
func TestClockIsKnownByItsBoot(t *testing.T) {
	id, uptime := boot()
	again, later := boot()
	if id != again || later < uptime || id != "" && uptime <= 0 {
		t.Errorf("%q %v, then %q %v", id, uptime, again, later)
	}
}
