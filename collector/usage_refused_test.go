package collector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/usage"
	"opper_exporter/opper"
	"opper_exporter/opper/oppertest"
)

// failingByTrace fails to read usage by trace.
type failingByTrace struct {
	usage.Source
	err   error
	reads *int
}

func (f failingByTrace) Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	if slices.Contains(q.GroupBy, opper.GroupTrace) {
		*f.reads++
		return opper.UsagePage{}, f.err
	}
	return f.Source.Usage(ctx, q)
}

// Traces don't wait without end for usage by trace that goes on failing, whatever the
// reason, and it is read less often.
func TestUsageByTraceThatGoesOnFailing(t *testing.T) {
	for _, status := range []int{401, 422, 500, 501} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
			source, reads := u.project.usage.source, 0
			u.project.usage.source = func() usage.Source {
				return failingByTrace{source(), &opper.Error{Status: status}, &reads}
			}
			u.sync()
			const hours = 12
			for range hours {
				u.trace("agent", dollar)
				for range 6 {
					u.step(10 * time.Minute)
					u.sync()
					u.read()
				}
			}
			if waiting := u.project.aggregates.CostsWaiting(); waiting > 1 {
				t.Errorf("%d traces wait, expected those of the last hour", waiting)
			}
			// A refusal is read again without Opper's projects.
			if reads > 2*hours+7 {
				t.Errorf("%d requests in %d hours, expected at most two an hour after the first hour", reads, hours)
			}
			if n := strings.Count(u.log.String(), "usage refused"); n != 1 {
				t.Errorf("%d lines about it\n%s", n, u.log.String())
			}
		})
	}
}

// Usage that can't be joined is off until a trace is joined, although there are reads at
// which no trace is due.
func TestUnjoinableUsageIsLoggedOnce(t *testing.T) {
	u := newUsageBench(t, usageConfig(), oppertest.UsageTroubles{})
	u.sync()
	for i := range 6 {
		u.opper.Add(oppertest.Trace{ID: fmt.Sprint("listed-", i), Name: new("agent"), Status: new("success"), Start: new(u.now()), End: new(u.now())})
		u.call("openai/gpt-4o", fmt.Sprint("other-", i), oppertest.Amounts{Cost: 5})
		for range 100 {
			u.step(time.Minute)
			u.sync()
			u.read()
		}
	}
	if n := strings.Count(u.log.String(), "usage refused"); n != 1 {
		t.Errorf("%d lines about it, expected 1\n%s", n, u.log.String())
	}
	u.expect(values{"opper_usage_up{trace}": 0})
	u.trace("agent", dollar)
	for range 80 {
		u.step(time.Minute)
		u.sync()
		u.read()
	}
	u.expect(values{"opper_usage_up{trace}": 1})
}
