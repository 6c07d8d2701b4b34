package opper

import (
	"context"
	"fmt"
	"math"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// minRate is the minimum of a throttled rate, as a fraction of the full rate.
	minRate = 1.0 / 16
	// rateGain is how much one success restores, as a fraction of the full rate.
	rateGain = 0.02
)

// limiter is a token bucket whose rate falls with each 429. A nil limiter does not
// limit.
type limiter struct {
	full   rate.Limit
	bucket *rate.Limiter

	mu sync.Mutex // makes one step of reading and changing the rate
}

// newLimiter takes requests per second; 0 is no limit.
func newLimiter(perSecond float64) *limiter {
	if perSecond == 0 {
		return nil
	}
	burst := max(1, int(math.Ceil(min(perSecond, math.MaxInt32))))
	return &limiter{full: rate.Limit(perSecond), bucket: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// wait takes one token, and fails at once if there is none before ctx ends.
func (l *limiter) wait(ctx context.Context, clock clock) error {
	if l == nil {
		return nil
	}
	now := clock.now()
	token := l.bucket.ReserveN(now, 1)
	delay := token.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	err := context.DeadlineExceeded
	if !endsWithin(ctx, now, delay) {
		err = clock.sleep(ctx, delay)
	}
	if err != nil {
		token.CancelAt(now)
		return fmt.Errorf("waiting for the rate limit: %w", err)
	}
	return nil
}

// throttled halves the rate.
func (l *limiter) throttled(clock clock) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket.SetLimitAt(clock.now(), max(l.bucket.Limit()/2, l.full*minRate))
}

// succeeded restores a little of the rate.
func (l *limiter) succeeded(clock clock) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.bucket.Limit(); now < l.full {
		l.bucket.SetLimitAt(clock.now(), min(now+l.full*rateGain, l.full))
	}
}
