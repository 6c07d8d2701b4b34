package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// topics are what may be left out.
var topics = []string{"bursts", "changes", "names", "dates", "pauses", "kills", "outages", "faults", "lies", "rows", "keys", "clients", "usage"}

// conductor lets things go wrong, several at once, with quiet times between.
type conductor struct {
	*settings
	world    *world
	exporter *exporter
	watcher  *watcher
	promises *promises
	timeline *timeline
}

// Durations of a soak of an hour.
const (
	quietTime = 90 * time.Second
	// quietest is what a quiet time lasts at least: constants of the exporter,
	// as the time between two retries, do not depend on how long a soak is.
	quietest = 20 * time.Second
	endTime  = 4 * time.Minute
)

// episode is one thing that goes on for some time. It gets how long it may
// last at most.
type episode struct {
	topic string
	run   func(ctx context.Context, rng *rand.Rand, most time.Duration)
}

// track plays episodes one after the other, in random order, each as often as
// the others before any comes again.
type track struct {
	rng      *rand.Rand
	gap      time.Duration // the longest pause between two, in a soak of an hour
	episodes []episode
	bag      []episode
}

// play is all that happens before the end: phases in which everything may happen
// at once, with quiet times behind them. In the second half the exporter is not
// killed, so that a leak has the time to show.
func (c *conductor) play(ctx context.Context) error {
	phases := max(4, int(c.lasts/(15*time.Minute)))
	quiet := quietTime
	if quiet = c.scaled(quiet); quiet < quietest {
		quiet = min(quietest, c.lasts/time.Duration(4*phases))
	}
	active := max((c.lasts-c.scaled(endTime))/time.Duration(phases)-quiet, time.Second)
	tracks := c.tracks()
	for i := range phases {
		if i == phases/2 {
			tracks[0].set(c.settings, []episode{{"pauses", c.pause}})
		}
		c.phase(ctx, active, tracks)
		c.promises.say("quiet for %s", quiet.Round(time.Second))
		sleep(ctx, quiet)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.exporter.revive(); err != nil {
			return err
		}
	}
	return nil
}

// phase plays all tracks at once for a time.
func (c *conductor) phase(ctx context.Context, lasts time.Duration, tracks []*track) {
	ends := time.Now().Add(lasts)
	ctx, cancel := context.WithDeadline(ctx, ends)
	defer cancel()
	var playing sync.WaitGroup
	for _, t := range tracks {
		if len(t.episodes) > 0 {
			playing.Go(func() { c.playTrack(ctx, t, ends) })
		}
	}
	playing.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, time.Second)
			if err := c.exporter.revive(); err != nil {
				c.promises.offend("exit", "the exporter can't be started again: %v", err)
			}
		}
	})
	playing.Wait()
}

func (c *conductor) playTrack(ctx context.Context, t *track, ends time.Time) {
	for {
		sleep(ctx, c.scaled(t.gap/6+time.Duration(t.rng.Int64N(int64(t.gap)))))
		most := time.Until(ends)
		if ctx.Err() != nil || most < 500*time.Millisecond {
			return
		}
		if len(t.bag) == 0 {
			t.bag = append(t.bag, t.episodes...)
			t.rng.Shuffle(len(t.bag), func(i, j int) { t.bag[i], t.bag[j] = t.bag[j], t.bag[i] })
		}
		e := t.bag[0]
		t.bag = t.bag[1:]
		e.run(ctx, t.rng, most)
	}
}

// tracks are one for the process, one for Opper, one for the list, and one for
// the clients.
func (c *conductor) tracks() (all []*track) {
	add := func(gap time.Duration, episodes []episode) {
		t := &track{rng: rand.New(rand.NewPCG(uint64(c.seed), uint64(10+len(all)))), gap: gap}
		t.set(c.settings, episodes)
		all = append(all, t)
	}
	add(60*time.Second, c.processEpisodes())
	add(50*time.Second, c.opperEpisodes())
	add(45*time.Second, c.listEpisodes())
	add(100*time.Second, []episode{{"clients", c.hostileClients}})
	return all
}

// set gives a track other episodes, but for those that are left out.
func (t *track) set(s *settings, episodes []episode) {
	t.episodes = slices.DeleteFunc(episodes, func(e episode) bool { return !s.has(e.topic) })
	t.bag = nil
}

// begin opens a window, and tells a person.
func (c *conductor) begin(what string, t trouble) func() {
	c.promises.say("%s", what)
	return c.timeline.begin(what, t)
}

// between returns a duration between two of a soak of an hour, short ones more
// often.
func (c *conductor) between(rng *rand.Rand, least, most time.Duration) time.Duration {
	u := rng.Float64()
	return c.scaled(least + time.Duration(u*u*float64(most-least)))
}

// blackout returns how long the exporter may go without a good sync from now on
// at most: what is listed must not all expire unseen.
func (c *conductor) blackout(most time.Duration) time.Duration {
	return min(most, c.scaled(retention)*3/4-c.watcher.lag())
}

// longest is how long bursts may make the list in a soak of an hour. In a shorter
// one, so long a list would be read in full too seldom: a pause of ten times its
// duration follows each sweep, and without sweeps little is certain.
const longest = 8000

// huge is the size of a burst of more traces than are listed, unless that is very
// many already.
func (c *conductor) huge(rng *rand.Rand) int {
	listed := c.world.opper.Len()
	most := max(int(longest*c.scaled(time.Hour).Hours()), 3000)
	return min(listed+100+rng.IntN(listed+100), max(most-listed, 100))
}

func (c *conductor) listEpisodes() []episode {
	instant := func(topic, what string, n func(rng *rand.Rand) int, do func(rng *rand.Rand, n int)) episode {
		return episode{topic, func(_ context.Context, rng *rand.Rand, _ time.Duration) {
			count := n(rng)
			defer c.begin(fmt.Sprintf("%s: %d of %d", what, count, c.world.opper.Len()), harmless)()
			do(rng, count)
		}}
	}
	upTo := func(n int) func(*rand.Rand) int { return func(rng *rand.Rand) int { return 1 + rng.IntN(n) } }
	return []episode{
		instant("bursts", "burst", upTo(90), c.world.burst),
		instant("bursts", "burst", upTo(600), c.world.burst),
		instant("bursts", "large burst", c.huge, c.world.burst),
		instant("changes", "rename", upTo(30), c.world.rename),
		instant("changes", "delete", upTo(30), c.world.remove),
		instant("changes", "delete", upTo(300), c.world.remove),
		instant("changes", "back-dated", upTo(20), c.world.backDate),
		instant("changes", "back-dated", upTo(150), c.world.backDate),
		instant("names", "hostile names", upTo(20), func(rng *rand.Rand, n int) { c.world.hostile(rng, n, false) }),
		instant("dates", "hostile dates", upTo(8), func(rng *rand.Rand, n int) { c.world.hostile(rng, n, true) }),
	}
}
