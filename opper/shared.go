package opper

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
	"weak"
)

// Priority says which requests of all projects go first while they wait for a
// SharedLimit: those of the lowest.
type Priority int

// The priorities, by what a request is part of.
const (
	PrioritySync Priority = iota
	PriorityUsage
	PrioritySweep
	PriorityInitialSync
	numPriorities
)

const (
	// turnEvery is one of how many tokens goes to the priorities in turn, whatever
	// waits. Without it, usage, sweeps and initial syncs would never go on where
	// syncs alone use up the limit.
	turnEvery = 16
	// throttleWindow is the time within which two projects have to be answered 429
	// for it to be more than the limit of one.
	throttleWindow = time.Minute
)

// SharedLimit is a token bucket over the requests of all projects. Requests that
// wait for it go by priority, and those of one priority by project in turn: many
// requests of one project delay those of another by one at most. A nil SharedLimit
// does not limit.
type SharedLimit struct {
	mu     sync.Mutex
	bucket bucket
	hosts  map[string]weak.Pointer[sharedHost] // those that a project holds, as projects come and go
	queues [numPriorities][]*sharedProject     // those with requests that wait, in the order of their turns
	served int
	timer  *time.Timer // of the next token that is waited for
}

// sharedHost has a bucket as large as that over all hosts, so that it limits only
// while its rate is lower: 429s of one host do not delay the requests to others.
type sharedHost struct {
	bucket
	refused   *sharedProject // the project that was answered 429 last, until a second one was
	refusedAt time.Time
}

// sharedProject is a project at a SharedLimit. A nil sharedProject does not limit.
type sharedProject struct {
	limit   *SharedLimit
	host    *sharedHost
	waiting [numPriorities][]chan struct{} // closed when it is their turn
}

// NewSharedLimit takes requests per second; 0 is no limit.
func NewSharedLimit(perSecond float64) *SharedLimit {
	if perSecond == 0 {
		return nil
	}
	return &SharedLimit{bucket: newBucket(perSecond), hosts: map[string]weak.Pointer[sharedHost]{}}
}

func (l *SharedLimit) project(host string) *sharedProject {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host].Value()
	if h == nil {
		maps.DeleteFunc(l.hosts, func(_ string, h weak.Pointer[sharedHost]) bool { return h.Value() == nil })
		h = &sharedHost{bucket: newBucket(l.bucket.full)}
		l.hosts[host] = weak.Make(h)
	}
	return &sharedProject{limit: l, host: h}
}

// wait takes one token, and fails at once if there is none before ctx ends.
func (p *sharedProject) wait(ctx context.Context, priority Priority) error {
	if p == nil {
		return nil
	}
	turn, err := p.join(ctx, priority)
	if err == nil {
		select {
		case <-turn:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	p.leave(priority, turn)
	return fmt.Errorf("waiting for the rate limit of all projects: %w", err)
}

// join returns a channel that is closed when it is the request's turn, and an
// error if ctx ends before.
func (p *sharedProject) join(ctx context.Context, priority Priority) (<-chan struct{}, error) {
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	turn := make(chan struct{})
	if len(p.waiting[priority]) == 0 {
		p.limit.queues[priority] = append(p.limit.queues[priority], p)
	}
	p.waiting[priority] = append(p.waiting[priority], turn)
	p.limit.serve()
	now := time.Now()
	if n := p.place(priority); n > 0 && endsWithin(ctx, now, p.limit.bucket.missing(now, float64(n))) {
		return turn, context.DeadlineExceeded
	}
	return turn, nil
}

// place returns how many tokens are needed until it is the turn of the project's
// last request, 0 if none waits.
func (p *sharedProject) place(priority Priority) int {
	own := len(p.waiting[priority])
	if own == 0 {
		return 0
	}
	n := 0
	for before := range priority {
		for _, other := range p.limit.queues[before] {
			n += len(other.waiting[before])
		}
	}
	turns := own
	for _, other := range p.limit.queues[priority] {
		n += min(len(other.waiting[priority]), turns)
		if other == p {
			turns--
		}
	}
	return n
}

// leave takes back a request that is not made. If it was its turn, the next one
// gets the token.
func (p *sharedProject) leave(priority Priority, turn <-chan struct{}) {
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	i := slices.IndexFunc(p.waiting[priority], func(c chan struct{}) bool { return c == turn })
	if i < 0 {
		p.limit.bucket.tokens++
		p.host.tokens++
	} else if p.waiting[priority] = slices.Delete(p.waiting[priority], i, i+1); len(p.waiting[priority]) == 0 {
		queue := &p.limit.queues[priority]
		*queue = slices.DeleteFunc(*queue, func(other *sharedProject) bool { return other == p })
	}
	p.limit.serve()
}

// release gives back a token that was not used.
func (p *sharedProject) release() {
	if p != nil {
		p.leave(PrioritySync, nil)
	}
}

// throttled notes a 429. The second within a minute that is another project's
// halves the rate of their host.
func (p *sharedProject) throttled() {
	if p == nil {
		return
	}
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	now, h := time.Now(), p.host
	if h.refused != nil && h.refused != p && now.Sub(h.refusedAt) <= throttleWindow {
		h.bucket.throttled(now)
		h.refused = nil
		return
	}
	h.refused, h.refusedAt = p, now
}

// succeeded restores a little of the rate of the host.
func (p *sharedProject) succeeded() {
	if p == nil {
		return
	}
	p.limit.mu.Lock()
	defer p.limit.mu.Unlock()
	p.host.bucket.succeeded(time.Now())
}

// serve gives tokens to the requests whose turn it is, and sets the timer for the
// next one. It must be called after each change of what waits.
func (l *SharedLimit) serve() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	now := time.Now()
	for {
		priority, i, delay := l.next(now)
		if i < 0 {
			if delay < math.MaxInt64 {
				l.timer = time.AfterFunc(delay, func() {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.serve()
				})
			}
			return
		}
		p := l.queues[priority][i]
		l.queues[priority] = slices.Delete(l.queues[priority], i, i+1)
		close(p.waiting[priority][0])
		p.waiting[priority] = p.waiting[priority][1:]
		if len(p.waiting[priority]) > 0 {
			l.queues[priority] = append(l.queues[priority], p)
		}
		l.bucket.tokens--
		p.host.tokens--
		l.served++
	}
}

// next returns the place in the queues of whose turn it is. That is negative if
// none has a token, with the time until one may have; the maximum if none waits.
func (l *SharedLimit) next(now time.Time) (priority, i int, delay time.Duration) {
	first := 0
	if l.served%turnEvery == turnEvery-1 {
		first = l.served / turnEvery % int(numPriorities)
	}
	delay = math.MaxInt64
	missing := l.bucket.missing(now, 1)
	for n := range int(numPriorities) {
		priority = (first + n) % int(numPriorities)
		for i, p := range l.queues[priority] {
			if missing > 0 {
				return priority, -1, missing
			}
			d := p.host.missing(now, 1)
			if d == 0 {
				return priority, i, 0
			}
			delay = min(delay, d)
		}
	}
	return priority, -1, delay
}
