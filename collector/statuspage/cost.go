package statuspage

import (
	"cmp"
	"math"
	"slices"

	"opper_exporter/collector/status"
)

// shownModels is how many models have a row of their own.
const shownModels = 5

// cost is what the page says about the usage of a project.
type cost struct {
	*status.Usage
	Top         []status.Model // the most expensive models
	Rest, Total status.Model   // sums of those without a row, and of all, also expired ones
	More        int            // models without a row
	IsNear      bool           // the limit is near, or reached
}

func newCost(u *status.Usage) *cost {
	if u == nil {
		return nil
	}
	c := &cost{Usage: u, Top: slices.Clone(u.Models), Total: u.Expired}
	slices.SortFunc(c.Top, func(a, b status.Model) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Name, b.Name), cmp.Compare(a.OpperProject, b.OpperProject))
	})
	for i, m := range c.Top {
		add(&c.Total, m)
		if i >= shownModels {
			add(&c.Rest, m)
			c.More++
		}
	}
	c.Top = c.Top[:min(len(c.Top), shownModels)]
	if b := u.Budget; b != nil {
		c.IsNear = b.HasSpent && b.HasLimit && float64(b.SpentCents) >= status.NearLimit*float64(b.LimitCents)
	}
	return c
}

func add(sum *status.Model, m status.Model) {
	sum.Cost += m.Cost
	sum.Calls += m.Calls
}

// Spent returns the cost if it says what is spent in this month, else nil.
func (v *view) Spent() *cost {
	if v.Cost == nil || v.Cost.Budget == nil || !v.Cost.Budget.HasSpent {
		return nil
	}
	return v.Cost
}

// OfLimit is the part of the limit that is spent.
func (c *cost) OfLimit() string {
	b := c.Budget
	if b.LimitCents <= 0 {
		return "–"
	}
	percent := math.Floor(float64(b.SpentCents) / float64(b.LimitCents) * 100)
	if percent > 999 { // more would take the room of other columns
		return "> 999 %"
	}
	return count(percent) + " %"
}
