package opper

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	// minRate is the minimum of a throttled rate, as a fraction of the full rate.
	minRate = 1.0 / 16
	// rateGain is how much one success restores, as a fraction of the full rate.
	rateGain = 0.02
)

// bucket is a token bucket whose rate falls with each 429.
type bucket struct {
	full, rate float64 // tokens per second
	burst      float64
	tokens     float64   // negative for those that are promised
	at         time.Time // when it held them
}

// newBucket returns a full bucket. With 0, there is no limit: it is never empty.
func newBucket(perSecond float64) bucket {
	if perSecond == 0 {
		perSecond = math.Inf(1)
	}
	burst := max(1, math.Ceil(perSecond))
	return bucket{full: perSecond, rate: perSecond, burst: burst, tokens: burst}
}

// advance adds the tokens of the time since the last call.
func (b *bucket) advance(now time.Time) {
	if now.After(b.at) {
		if !b.at.IsZero() {
			b.tokens = min(b.tokens+now.Sub(b.at).Seconds()*b.rate, b.burst)
		}
		b.at = now
	}
}

// missing returns how long it takes until there are as many tokens.
func (b *bucket) missing(now time.Time, tokens float64) time.Duration {
	b.advance(now)
	if b.tokens >= tokens {
		return 0
	}
	return time.Duration(min((tokens-b.tokens)/b.rate*float64(time.Second), math.MaxInt64/2))
}

// throttled halves the rate.
func (b *bucket) throttled(now time.Time) {
	b.advance(now)
	b.rate = max(b.rate/2, b.full*minRate)
}

// succeeded restores a little of the rate.
func (b *bucket) succeeded(now time.Time) {
	b.advance(now)
	b.rate = min(b.rate+b.full*rateGain, b.full)
}

// limiter is the bucket of one project.
type limiter struct {
	mu     sync.Mutex
	bucket bucket
}

// wait takes one token, and fails at once if there is none before ctx ends.
func (l *limiter) wait(ctx context.Context, clock clock) error {
	now := clock.now()
	delay := l.reserve(now)
	if delay == 0 {
		return nil
	}
	err := context.DeadlineExceeded
	if !endsWithin(ctx, now, delay) {
		err = clock.sleep(ctx, delay)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.bucket.tokens++
		return fmt.Errorf("waiting for the rate limit: %w", err)
	}
	return nil
}

// reserve takes a token and returns how long to wait for it.
func (l *limiter) reserve(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	delay := l.bucket.missing(now, 1)
	l.bucket.tokens--
	return delay
}

func (l *limiter) throttled(clock clock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket.throttled(clock.now())
}

func (l *limiter) succeeded(clock clock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket.succeeded(clock.now())
}
