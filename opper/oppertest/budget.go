package oppertest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Budget is what a project of Opper may spend in a month.
type Budget struct {
	LimitCents *int64 // nil is no limit
	Blocked    bool   // the block_reason has a Secret
}

// BudgetAnswer is an answer of GET /v3/me as a good reader has it. Nil is missing, or
// null.
type BudgetAnswer struct {
	Status     int // no other than 200 has any
	SpentCents *int64
	LimitCents *int64
	Blocked    *bool
}

// SetBudget sets the budget of an Opper project, which has no limit before.
func (u *Usage) SetBudget(uuid string, b Budget) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.budgets[uuid] = b
}

// ReadBudget reads the budget of the server's project as GET /v3/me does, without
// HTTP and without the hook; see ReadUsage.
func (s *Server) ReadBudget() BudgetAnswer {
	req := Request{Endpoint: BudgetEndpoint}
	s.number(&req)
	if s.takeFault(req) != nil {
		return BudgetAnswer{}
	}
	b, _ := s.usage.budget(req, s.cfg.Project)
	return b
}

// budget returns that of a project, and as it is sent.
func (u *Usage) budget(req Request, project string) (BudgetAnswer, []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t, rng := u.troubles, u.rng(req)
	if status := t.outage(rng); status != 0 {
		return BudgetAnswer{Status: status}, nil
	}
	if t.BudgetStatus != 0 {
		return BudgetAnswer{Status: t.BudgetStatus}, nil
	}
	now := u.cfg.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var spent int64
	u.each(now, month.Unix(), month.AddDate(0, 1, 0).Unix(), func(e *entry, a Amounts) {
		if *e.owner == project {
			spent += a.Cost
		}
	})
	const perCent = 10_000_000
	spent /= perCent
	set := u.budgets[project]
	b := BudgetAnswer{Status: http.StatusOK}

	gap := func() bool { return rng.Float64() < t.BudgetGaps }
	number := func(n int64) string {
		if t.Shapes {
			return numberShape(rng, n)
		}
		return strconv.FormatInt(n, 10)
	}
	var parts, spend []string
	if !gap() {
		b.SpentCents = &spent
		spend = append(spend, `"spent_cents":`+number(spent))
	}
	switch {
	case gap():
	case set.LimitCents == nil:
		spend = append(spend, `"limit_cents":null`)
	default:
		b.LimitCents = new(*set.LimitCents)
		spend = append(spend, `"limit_cents":`+number(*set.LimitCents))
	}
	if gap() {
		b.SpentCents, b.LimitCents = nil, nil
		parts = append(parts, []string{`"project_spend":null`, `"project_spend":[]`, `"project_spends":{}`}[rng.IntN(3)])
	} else {
		parts = append(parts, `"project_spend":{`+strings.Join(spend, ",")+`}`)
	}
	if !gap() {
		b.Blocked = new(set.Blocked)
		parts = append(parts, fmt.Sprintf(`"blocked":%t`, set.Blocked))
	}
	reason := "null"
	if set.Blocked {
		reason = quote("blocked: " + Secret)
	}
	parts = append(parts, `"block_reason":`+reason)
	if t.UnknownFields {
		parts = append(parts, fmt.Sprintf(`"member_spend":{"spent_cents":1,"limit_cents":2,"limit_scope":%[1]s},%[1]s:%[1]s`, quote(Secret)))
	}
	if t.Shapes {
		rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	}
	return b, []byte("{" + strings.Join(parts, ",") + "}")
}
