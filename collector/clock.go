package collector

import (
	"sync"
	"time"
)

// slewShare is of how much time that has passed one unit may be added or left
// out to come closer to the system's clock.
const slewShare = 10

// maxRestartStep is by how far the system's clock and the time since boot may
// disagree about a restart before the clock is taken to have been set.
const maxRestartStep = time.Minute

// Clock is the time by which a project measures ages: for how long a trace is
// open or has ended, and when something is due. It does not jump when the
// system's clock is set, but follows it at a tenth of the speed of time, so that
// an age is wrong by no more than a tenth. A suspended machine is a clock that is
// set forward. All methods are safe for concurrent use.
type Clock struct {
	read func() (wall time.Time, passed time.Duration)
	boot func() (id string, uptime time.Duration)

	mu   sync.Mutex
	now  time.Time
	last time.Duration // when it was now
}

// clockState is a Clock in a form that can be stored.
type clockState struct {
	Time   time.Time
	Boot   string // of the machine; empty if that is not known
	Uptime time.Duration
}

// NewClock returns a Clock that begins at the time of the system.
func NewClock() *Clock {
	began := time.Now()
	return newClock(func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(began)
	}, boot)
}

func newClock(read func() (time.Time, time.Duration), boot func() (string, time.Duration)) *Clock {
	c := &Clock{read: read, boot: boot}
	c.now, c.last = read()
	return c
}

// another returns a further Clock of the same machine, which begins at the system's time.
func (c *Clock) another() *Clock { return newClock(c.read, c.boot) }

// Now returns the time. It never goes back, and has no monotonic part that would
// disagree with what was stored.
func (c *Clock) Now() time.Time {
	now, _ := c.advance()
	return now
}

// Wall returns what the system's clock would have said at a time of this clock,
// had it always been as it is set now.
func (c *Clock) Wall(t time.Time) time.Time {
	now, wall := c.advance()
	return t.Add(wall.Sub(now))
}

// System returns the time of the system's clock, which is what is published.
func (c *Clock) System() time.Time {
	_, wall := c.advance()
	return wall
}

func (c *Clock) advance() (now, wall time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, at := c.read()
	passed := at - c.last
	c.now, c.last = c.now.Add(passed), at
	slew := max(passed, 0) / slewShare
	c.now = c.now.Add(min(max(wall.Sub(c.now), -slew), slew))
	return c.now, wall
}

func (c *Clock) state() clockState {
	st := clockState{Time: c.Now()}
	st.Boot, st.Uptime = c.boot()
	return st
}

// restore continues the clock of an earlier process, if it is known how long ago
// that was and the system clock has been set since.
func (c *Clock) restore(st clockState) {
	id, uptime := c.boot()
	if id == "" || id != st.Boot || uptime < st.Uptime {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := st.Time.Add(uptime - st.Uptime); now.Sub(c.now).Abs() > maxRestartStep {
		c.now = now
	}
}
