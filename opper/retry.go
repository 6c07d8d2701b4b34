package opper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

const (
	maxRetries   = 3 // of one request
	backoffBase  = 250 * time.Millisecond
	backoffCap   = 10 * time.Second
	maxWait      = 30 * time.Second // a longer Retry-After is not waited for
	maxNotBefore = time.Hour        // nor is a longer one believed
)

// retryAfter is what a Retry-After header asked for.
type retryAfter struct {
	wait  time.Duration // at most maxNotBefore
	given bool
}

func parseRetryAfter(value string, now time.Time) retryAfter {
	wait := maxNotBefore
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxNotBefore/time.Second))) * time.Second
	} else if !errors.Is(err, strconv.ErrRange) {
		date, err := http.ParseTime(value)
		if err != nil {
			return retryAfter{}
		}
		wait = min(date.Sub(now), maxNotBefore)
	}
	return retryAfter{wait: max(wait, 0), given: true}
}

// endsWithin reports whether the deadline of ctx comes before a wait is over.
func endsWithin(ctx context.Context, now time.Time, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && deadline.Before(now.Add(wait))
}

// read fetches from an endpoint, which the error of a 404 names: the URL of the flags
// may be wrong.
func (c *Client) read(ctx context.Context, endpoint string, query url.Values, decode func(io.Reader) error) error {
	full := endpoint
	if len(query) > 0 {
		full += "?" + query.Encode()
	}
	err := c.fetch(ctx, full, decode)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%s: %w", endpoint, err)
	}
	return err
}

// fetch makes requests until decode accepts an answer, or a retry cannot help.
func (c *Client) fetch(ctx context.Context, url string, decode func(io.Reader) error) error {
	rekeyed := false
	for retries := 0; ; {
		if err := c.admit(ctx); err != nil {
			return err
		}
		key := c.opts.Key.current()
		err := c.attempt(ctx, url, key, decode)
		if err == nil {
			c.limit.succeeded(c.clock)
			c.total.succeeded()
			return nil
		}
		c.logFailure(err)
		switch status(err) {
		case http.StatusTooManyRequests:
			c.limit.throttled(c.clock)
			c.total.throttled()
		case http.StatusUnauthorized:
			if !rekeyed && c.opts.Key.renew() != key {
				rekeyed = true
				continue
			}
		}
		if !retryable(err) {
			return err
		}
		wait := c.clock.jitter(min(backoffBase<<retries, backoffCap))
		var after retryAfter
		if e, ok := errors.AsType[*Error](err); ok {
			after = e.after
			wait = max(wait, after.wait)
		}
		if wait > maxWait || endsWithin(ctx, c.clock.now(), wait) || retries == maxRetries || !c.takeRetry() {
			if after.given {
				c.holdOff(after.wait)
			}
			return err
		}
		retries++
		if ended := c.clock.sleep(ctx, wait); ended != nil {
			return fmt.Errorf("%w while waiting to ask again after: %s", ended, err.Error())
		}
	}
}

// logFailure logs an attempt that failed, as others may follow.
func (c *Client) logFailure(err error) {
	logger := level.Debug(c.opts.Logger)
	if e, ok := errors.AsType[*Error](err); ok && e.Code != "" {
		logger = log.With(logger, "opper_code", e.Code)
	}
	logger.Log("msg", "request to Opper failed", "err", err)
}

// admit waits until one request may be made.
func (c *Client) admit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.heldOff(); err != nil {
		return err
	}
	if err := c.awaitLimits(ctx); err != nil {
		return err
	}
	// Another request may have got a later retry time meanwhile.
	err := c.heldOff()
	if err != nil {
		c.total.release()
	}
	return err
}

// awaitLimits takes a token of each limit. That of all projects comes last: a request
// that waits for its own project's keeps none from others.
func (c *Client) awaitLimits(ctx context.Context) error {
	began := c.clock.now()
	defer func() { c.opts.Waited(c.clock.now().Sub(began)) }()
	waiting := ctx
	if !c.waitUntil.IsZero() {
		var cancel context.CancelFunc
		waiting, cancel = context.WithDeadline(ctx, c.waitUntil)
		defer cancel()
	}
	err := c.limit.wait(waiting, c.clock)
	if err == nil {
		err = c.total.wait(waiting, c.priority)
	}
	if err != nil && !c.waitUntil.IsZero() && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrPostponed, err)
	}
	return err
}

// Continue makes c, before its first request, continue for a client of the same URL
// with other settings: it sends nothing before Opper's last Retry-After is over, and
// keeps to a rate that was lowered, unless that is one of the settings.
func (c *Client) Continue(old *Client) {
	if c.base != old.base {
		return
	}
	old.mu.Lock()
	c.notBefore = old.notBefore
	old.mu.Unlock()
	if c.opts.RequestsPerSecond == old.opts.RequestsPerSecond {
		c.limit = old.limit
	}
	if c.opts.Shared == old.opts.Shared {
		c.total = old.total
	}
}

// holdOff delays all requests for a while.
func (c *Client) holdOff(wait time.Duration) {
	until := c.clock.now().Add(wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.notBefore) {
		c.notBefore = until
	}
}

func (c *Client) heldOff() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clock.now().Before(c.notBefore) {
		return fmt.Errorf("opper asked to wait until %s", c.notBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func retryable(err error) bool {
	if _, ok := errors.AsType[*brokenError](err); ok {
		return true
	}
	s := status(err)
	return s == http.StatusTooManyRequests || s >= 500
}

// takeRetry takes one retry from the budget, and reports whether there was one.
func (c *Client) takeRetry() bool {
	return c.retries == nil || c.retries.Add(-1) >= 0
}
