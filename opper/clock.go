package opper

import (
	"context"
	"math/rand/v2"
	"time"
)

// clock is the time as the client sees it, so that tests need not wait.
type clock struct {
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error // an error only from the context
	jitter func(limit time.Duration) time.Duration    // from 0 to limit
}

func realClock() clock {
	return clock{
		now: time.Now,
		sleep: func(ctx context.Context, d time.Duration) error {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
				return nil
			}
		},
		jitter: func(limit time.Duration) time.Duration { return rand.N(limit + 1) },
	}
}
