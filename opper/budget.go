package opper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Budget is what the project of the key has spent in this calendar month, and what it
// may spend. Any part of it may be missing.
type Budget struct {
	SpentCents, LimitCents int64 // US cents, rounded to them
	HasSpent, HasLimit     bool  // without a limit, Opper answers null
	Blocked, HasBlocked    bool
	// Missing has the names of the parts that the answer should have and that it has not,
	// or not as expected, separated by commas.
	Missing string
}

var errNoBudget = errors.New(`JSON without a budget (expected "project_spend" with "spent_cents" or "limit_cents", or "blocked")`)

// Budget returns the budget of the key's project. An answer without any part of it is
// an error. See Permanent.
func (c *Client) Budget(ctx context.Context) (Budget, error) {
	var budget Budget
	err := c.read(ctx, c.root()+"/v3/me", nil, func(r io.Reader) (err error) {
		budget, err = decodeBudget(r)
		return err
	})
	if err == nil && !budget.HasSpent && !budget.HasLimit && !budget.HasBlocked {
		err = errNoBudget
	}
	if err != nil {
		return Budget{}, fmt.Errorf("read budget: %w", err)
	}
	return budget, nil
}

// decodeBudget reads an answer to its end. A value of the wrong type counts as
// missing, and so does a negative limit; one that is null or absent is no limit.
func decodeBudget(r io.Reader) (b Budget, err error) {
	hasNoLimit := true
	err = decode(r, func(d *decoder) {
		d.Object(func(key []byte) {
			switch string(key) {
			case "project_spend":
				b.SpentCents, b.HasSpent, b.LimitCents, b.HasLimit, hasNoLimit = 0, false, 0, false, true
				d.Object(func(key []byte) {
					switch string(key) {
					case "spent_cents":
						b.SpentCents, b.HasSpent = d.decimal(0)
					case "limit_cents":
						hasNoLimit = d.Peek() == 'n'
						b.LimitCents, b.HasLimit = d.decimal(0)
						if b.LimitCents < 0 {
							b.LimitCents, b.HasLimit = 0, false
						}
					default:
						d.Skip()
					}
				})
			case "blocked":
				value := d.Peek()
				d.Skip()
				b.Blocked, b.HasBlocked = value == 't', value == 't' || value == 'f'
			default:
				d.Skip()
			}
		})
	})
	var missing []string
	for _, part := range []struct {
		name      string
		isMissing bool
	}{
		{"blocked", !b.HasBlocked},
		{"project_spend.limit_cents", !b.HasLimit && !hasNoLimit},
		{"project_spend.spent_cents", !b.HasSpent},
	} {
		if part.isMissing {
			missing = append(missing, part.name)
		}
	}
	b.Missing = strings.Join(missing, ", ")
	return b, err
}
