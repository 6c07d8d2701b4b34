package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

// computed is what a server makes of stored samples. It may be higher than the truth by
// what increase() extrapolates.
type computed struct {
	t            *testing.T
	server       *promtest.Server
	extrapolates float64 // relatively, at most
}

func (c computed) near(got, want float64) bool {
	return got >= want*(1-exportertest.Rounding) && got <= want*(1+c.extrapolates+exportertest.Rounding)
}

// is waits until an expression, which a rule may take some seconds to compute, gives these
// values of a label.
func (c computed) is(promql, label string, want map[string]float64) {
	c.t.Helper()
	promtest.Eventually(c.t, func() error {
		got, err := values(c.t.Context(), c.server, promql, label)
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if value, ok := got[key]; !ok || !c.near(value, want[key]) {
				return fmt.Errorf("%s is %v, want %v, or up to %v of that more", promql, got, want, c.extrapolates)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%s is %v, want %v", promql, got, want)
		}
		return nil
	})
}

// forecast waits until the documented query gives the forecast for what has been spent in
// this month and in the last week, and the rule that for the month alone.
func (c computed) forecast(spend, week float64) {
	c.t.Helper()
	query := documented(c.t, "Forecast of the month")
	promtest.Eventually(c.t, func() error {
		now := time.Now().UTC()
		v, err := c.server.Query(c.t.Context(), query, now)
		if err != nil {
			return err
		}
		days := float64(daysIn(now) - now.Day() + 1)
		if len(v) != 1 || !c.near(float64(v[0].Value)-spend, week/7*days) {
			return fmt.Errorf("%s is %v, want %v", query, v, spend+week/7*days)
		}
		return nil
	})
	promtest.Eventually(c.t, func() error {
		rule, err := c.last(`project:opper_project_spend_usd:forecast`, time.Now())
		if err != nil {
			return err
		}
		at := rule.Timestamp.Time().UTC()
		// The server is young, so the average day of the month stands for that of a week.
		elapsed := float64(at.Day()-1) + at.Sub(at.Truncate(24*time.Hour)).Hours()/24
		want := spend / max(elapsed, 1) * float64(daysIn(at))
		if got := float64(rule.Value); got < want*(1-exportertest.Rounding) || got > want*(1+exportertest.Rounding) {
			return fmt.Errorf("the forecast is %v, want %v", got, want)
		}
		return nil
	})
}

// last returns the last sample of a series at a time, with its own timestamp.
func (c computed) last(series string, at time.Time) (model.SamplePair, error) {
	m, err := c.server.Samples(c.t.Context(), series, window)
	if err != nil {
		return model.SamplePair{}, err
	}
	if len(m) == 1 {
		for _, s := range slices.Backward(m[0].Values) {
			if !s.Timestamp.Time().After(at) {
				return s, nil
			}
		}
	}
	return model.SamplePair{}, fmt.Errorf("%d series of %s, or no sample at %v", len(m), series, at)
}

func daysIn(t time.Time) int { return time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day() }
