package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"opper_exporter/opper/oppertest"
)

func (w window) outage() bool { return strings.HasPrefix(w.what, "outage") }

// processEpisodes are what is done to the exporter.
func (c *conductor) processEpisodes() []episode {
	return []episode{
		{"pauses", c.pause},
		{"pauses", c.pause},
		{"kills", c.kill},
		{"kills", c.kill},
		{"kills", c.killOften},
		{"kills", c.terminate},
		{"usage", c.refuseUsage},
	}
}

// pause stops the process for a while, sometimes with a burst of traces
// meanwhile.
func (c *conductor) pause(ctx context.Context, rng *rand.Rand, most time.Duration) {
	lasts := min(c.between(rng, 70*time.Second, 5*time.Minute), c.blackout(most))
	if lasts <= 0 {
		return
	}
	defer c.begin(fmt.Sprintf("pause: %s", lasts.Round(time.Second)), failing)()
	c.exporter.signal(syscall.SIGSTOP)
	c.burstWithin(ctx, rng, lasts)
	c.exporter.signal(syscall.SIGCONT)
}

// burstWithin waits, and in half of all cases lists very many traces meanwhile
// or at the end.
func (c *conductor) burstWithin(ctx context.Context, rng *rand.Rand, lasts time.Duration) {
	ends := time.Now().Add(lasts)
	if c.has("bursts") && rng.IntN(2) == 0 {
		if rng.IntN(2) == 0 {
			sleep(ctx, time.Duration(rng.Int64N(int64(lasts)+1)))
		} else {
			sleep(ctx, lasts-lasts/50)
		}
		n := c.huge(rng)
		done := c.begin(fmt.Sprintf("burst meanwhile: %d of %d", n, c.world.opper.Len()), harmless)
		c.world.burst(rng, n)
		done()
	}
	sleep(ctx, time.Until(ends))
}

// kill ends the process at once, and starts it again after a while.
func (c *conductor) kill(ctx context.Context, rng *rand.Rand, most time.Duration) {
	down := max(0, min(c.between(rng, 0, 2*time.Minute), c.blackout(most)))
	defer c.begin(fmt.Sprintf("kill: down for %s", down.Round(time.Millisecond)), failing)()
	c.exporter.end(syscall.SIGKILL)
	sleep(ctx, down)
	c.startAgain(ctx)
}

// killOften kills one process after the other, early in its life.
func (c *conductor) killOften(ctx context.Context, rng *rand.Rand, _ time.Duration) {
	defer c.begin("kills: 5 in a row", failing)()
	for range 5 {
		c.exporter.end(syscall.SIGKILL)
		c.startAgain(ctx)
		sleep(ctx, time.Duration(rng.Int64N(int64(3*time.Second))))
	}
}

// terminate ends the process as an operator does.
func (c *conductor) terminate(ctx context.Context, _ *rand.Rand, _ time.Duration) {
	defer c.begin("restart", failing)()
	c.exporter.end(syscall.SIGTERM)
	c.startAgain(ctx)
}

func (c *conductor) startAgain(ctx context.Context) {
	if err := c.exporter.start(); err != nil {
		c.promises.offend("exit", "the exporter can't be started again: %v", err)
		return
	}
	wait(ctx, patience, func() bool { return c.exporter.view().address != "" })
}

// opperEpisodes are what Opper does wrong.
func (c *conductor) opperEpisodes() []episode {
	return []episode{
		{"outages", c.outage},
		{"outages", c.outage},
		{"faults", c.faults},
		{"faults", c.slow},
		{"lies", c.offsetIgnored},
		{"lies", c.wrongTotal},
		{"rows", c.unreadableRows},
		{"keys", c.wrongKey},
		{"keys", c.otherProject},
		{"usage", c.spoilUsage},
	}
}

// outage is that Opper gives no good answer at all for a while.
func (c *conductor) outage(ctx context.Context, rng *rand.Rand, most time.Duration) {
	lasts := min(c.between(rng, 2*time.Minute, 10*time.Minute), c.blackout(most))
	if lasts <= 0 {
		return
	}
	kinds := map[string]oppertest.Answer{
		"reset": reset, "cut": oppertest.Cut, "hang": oppertest.Hang, "half a body, then nothing": oppertest.HangBody,
		"503": oppertest.Errors(http.StatusServiceUnavailable)["v2 string"], "502 as HTML": oppertest.Errors(http.StatusBadGateway)["html"],
		"500 without a body": oppertest.Errors(http.StatusInternalServerError)["empty"], "429": oppertest.TooMany("2"),
		"a web page": oppertest.HTML, "garbage": oppertest.Garbage,
	}
	kind := pick(rng, keys(kinds))
	defer c.begin(fmt.Sprintf("outage: %s for %s", kind, lasts.Round(time.Second)), failing)()
	c.world.opper.Fail(oppertest.Fault{Answer: kinds[kind], Times: -1})
	defer c.world.opper.Clear()
	c.burstWithin(ctx, rng, lasts)
}

// faults spoil some of the answers, each in another way.
func (c *conductor) faults(ctx context.Context, rng *rand.Rand, most time.Duration) {
	answers := []oppertest.Answer{
		reset, oppertest.Cut, oppertest.CutBody, oppertest.Truncated, oppertest.Garbage, oppertest.HTML, oppertest.EmptyObject,
		oppertest.TooMany("1"), oppertest.TooMany(""), oppertest.HangBody,
	}
	for _, status := range []int{500, 502, 503, 504, 408, 429} {
		shapes := oppertest.Errors(status)
		for _, shape := range keys(shapes) {
			answers = append(answers, shapes[shape])
		}
	}
	share := 0.05 + 0.4*rng.Float64()
	defer c.begin(fmt.Sprintf("faults: %.0f %% of all requests", 100*share), lying)()
	chance := rand.New(rand.NewPCG(rng.Uint64(), 1)) // used under the lock of the server
	for range 30 {
		c.world.opper.Fail(oppertest.Fault{Answer: pick(rng, answers), Times: -1, Match: func(oppertest.Request) bool {
			return chance.Float64() < share/30
		}})
	}
	defer c.world.opper.Clear()
	sleep(ctx, min(c.between(rng, 30*time.Second, 2*time.Minute), most))
}

// slow makes answers slow, some of them too slow.
func (c *conductor) slow(ctx context.Context, rng *rand.Rand, most time.Duration) {
	lasts := min(c.between(rng, 30*time.Second, 2*time.Minute), most)
	timeout := max(c.scaled(10*time.Second), time.Second)
	defer c.begin("slow answers", lying)()
	c.world.spoiled(trickle(0.4, timeout*5/4))
	defer c.world.spoiled(nil)
	sleep(ctx, lasts)
}

func (c *conductor) offsetIgnored(ctx context.Context, rng *rand.Rand, most time.Duration) {
	defer c.begin("offset ignored", lying)()
	c.world.spoiled(ignoreOffset)
	defer c.world.spoiled(nil)
	sleep(ctx, min(c.between(rng, 20*time.Second, 2*time.Minute), most))
}

// wrongTotal leaves total_count out, or caps it. Rows are as they should be.
func (c *conductor) wrongTotal(ctx context.Context, rng *rand.Rand, most time.Duration) {
	most = min(c.between(rng, 30*time.Second, 3*time.Minute), most)
	if rng.IntN(2) == 0 {
		defer c.begin("total_count: missing", harmless)()
		c.world.total.set(func(int) *int { return nil })
	} else {
		limit := 50 + rng.IntN(1000)
		defer c.begin(fmt.Sprintf("total_count: at most %d", limit), harmless)()
		c.world.total.set(func(n int) *int { return new(min(n, limit)) })
	}
	defer c.world.total.set(nil)
	sleep(ctx, most)
}

// unreadableRows makes some rows spoil their page.
func (c *conductor) unreadableRows(ctx context.Context, rng *rand.Rand, most time.Duration) {
	bad := map[string]bool{}
	rows := c.world.some(rng, 1+rng.IntN(4))
	if newest := c.world.opper.Snapshot(); len(newest) > 0 && rng.IntN(2) == 0 {
		rows = append(rows, newest[rng.IntN(min(5, len(newest)))])
	}
	for _, t := range rows {
		bad[t.ID] = true
	}
	defer c.begin(fmt.Sprintf("unreadable rows: %d", len(bad)), lying)()
	c.world.spoiled(refuseRows(bad))
	defer c.world.spoiled(nil)
	sleep(ctx, min(c.between(rng, 15*time.Second, 2*time.Minute), most))
}

// wrongKey is a key that Opper refuses, in the file or all at once.
func (c *conductor) wrongKey(ctx context.Context, rng *rand.Rand, most time.Duration) {
	most = min(c.between(rng, 20*time.Second, 2*time.Minute), c.blackout(most))
	if most <= 0 {
		return
	}
	if rng.IntN(2) == 0 {
		defer c.begin("wrong key: every one is refused", failing)()
		c.world.opper.Fail(oppertest.Fault{Answer: oppertest.Errors(http.StatusUnauthorized)["v2 string"], Times: -1})
		defer c.world.opper.Clear()
	} else {
		defer c.begin("wrong key: in the file", failing)()
		if err := c.exporter.setKey(wrongKey); err != nil {
			c.promises.offend("soak", "%v", err)
		}
		defer func() {
			if err := c.exporter.setKey(goodKey); err != nil {
				c.promises.offend("soak", "%v", err)
			}
		}()
	}
	sleep(ctx, most)
}

// otherProject answers with another project's list for a while.
func (c *conductor) otherProject(ctx context.Context, rng *rand.Rand, most time.Duration) {
	most = min(c.between(rng, 20*time.Second, 2*time.Minute), c.blackout(most))
	if most <= 0 {
		return
	}
	defer c.begin("another project", lying)()
	c.world.opper.Fail(oppertest.Fault{Answer: oppertest.OtherProject(c.world.foreign), Times: -1})
	defer c.world.opper.Clear()
	sleep(ctx, most)
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
