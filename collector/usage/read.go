package usage

import (
	"context"
	"errors"
	"slices"
	"time"

	"opper_exporter/opper"
)

// Source is where usage and the budget are read from; an *opper.Client is one.
type Source interface {
	Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error)
	Budget(ctx context.Context) (opper.Budget, error)
}

// errCut is an answer that lacks rows, which shorter windows cannot bring.
var errCut = errors.New("usage of one hour is truncated (expected all of its rows in one answer)")

// Pages is what is known of the size of Opper's pages, for the reads of usage of one key,
// one at a time. No paging is documented, so an answer that does not say how many rows
// there are may lack some: if no other had more rows, it is checked. What is known holds
// until the end of the window moves, which it does each hour. The zero value knows nothing.
type Pages struct {
	most int   // rows of an answer; one with fewer is not cut
	end  int64 // hour: of the window
}

// ReadBy reads usage by a group and by Opper project, or by the group alone if Opper
// refuses to tell its projects apart or does not know that group. It reports whether they
// are told apart.
func (p *Pages) ReadBy(ctx context.Context, src Source, group opper.UsageGroup, from, to time.Time) (rows []opper.Usage, byProject bool, err error) {
	rows, err = p.Read(ctx, src, from, to, group, opper.GroupProject)
	if opper.Permanent(err) && !opper.Refused(err) {
		rows, err = p.Read(ctx, src, from, to, group)
		return rows, false, err
	}
	return rows, true, err
}

// Read reads all rows of the hours in a window, and none of others. An answer that is
// too large, or that is or may be cut, is read again as two windows, down to one hour:
// it is an error if rows are still missing.
func (p *Pages) Read(ctx context.Context, src Source, from, to time.Time, groups ...opper.UsageGroup) ([]opper.Usage, error) {
	if end := hourOf(to); end != p.end {
		p.most, p.end = 0, end
	}
	return p.read(ctx, src, opper.UsageQuery{From: from, To: to, GroupBy: groups})
}

func (p *Pages) read(ctx context.Context, src Source, query opper.UsageQuery) ([]opper.Usage, error) {
	page, err := src.Usage(ctx, query)
	isComplete := false
	switch {
	case err != nil:
	case page.Total >= 0:
		isComplete = page.Total <= len(page.Rows)
	case len(page.Rows) < max(p.most, 2):
		isComplete = true
	default:
		p.most = len(page.Rows)
		page.Rows, isComplete, err = p.check(ctx, src, query, page.Rows)
	}
	if err != nil && !errors.Is(err, opper.ErrTooLarge) && !errors.Is(err, opper.ErrTooManyRows) {
		return nil, err
	}
	if isComplete {
		return slices.DeleteFunc(page.Rows, func(u opper.Usage) bool {
			return u.Bucket.Before(query.From) || !u.Bucket.Before(query.To)
		}), nil
	}
	middle := middleOf(query, page.Rows)
	if !middle.After(query.From) {
		if err == nil {
			err = errCut
		}
		return nil, err
	}
	early, late := query, query
	early.To, late.From = middle, middle
	rows, err := p.read(ctx, src, early)
	if err != nil {
		return nil, err
	}
	lateRows, err := p.read(ctx, src, late)
	if err != nil {
		return nil, err
	}
	return append(rows, lateRows...), nil
}

// middleOf returns where to cut a window in two, so that both have rows of those that are
// known, if these are of several hours; its begin if it has no two hours.
func middleOf(query opper.UsageQuery, rows []opper.Usage) time.Time {
	buckets := make([]time.Time, len(rows))
	for i := range rows {
		buckets[i] = rows[i].Bucket
	}
	slices.SortFunc(buckets, time.Time.Compare)
	if n := len(buckets); n > 0 {
		middle := buckets[n/2]
		if middle.Equal(buckets[0]) {
			middle = middle.Add(time.Hour)
		}
		if middle.After(query.From) && middle.Before(query.To) {
			return middle
		}
	}
	return query.From.Add(query.To.Sub(query.From) / 2).Truncate(time.Hour)
}

// check compares rows that may be cut with the totals of their hours. It returns the rows
// that are complete, as they grow between two requests. If the totals may be cut as well,
// only two shorter windows show whether there are more.
func (p *Pages) check(ctx context.Context, src Source, query opper.UsageQuery, rows []opper.Usage) (present []opper.Usage, isComplete bool, err error) {
	before, isHour := sumsOf(rows), query.To.Sub(query.From) <= time.Hour
	if len(before) == len(rows) && !isHour {
		return rows, false, nil
	}
	totals, err := src.Usage(ctx, opper.UsageQuery{From: query.From, To: query.To})
	if err != nil || len(totals.Rows) >= p.most && !isHour {
		return rows, false, err
	}
	all := sumsOf(totals.Rows)
	if !hasAll(before, all) {
		page, err := src.Usage(ctx, query)
		if rows = page.Rows; err != nil || !hasAll(sumsOf(rows), all) {
			return rows, false, err
		}
		p.most = max(p.most, len(rows))
	}
	return rows, true, nil
}

func sumsOf(rows []opper.Usage) map[int64]Amounts {
	sums := map[int64]Amounts{}
	for i := range rows {
		hour := hourOf(rows[i].Bucket)
		sum := sums[hour]
		sum.add(amounts(&rows[i]))
		sums[hour] = sum
	}
	return sums
}

// hasAll reports whether the sums of each hour are not less than its total. Rows of
// corrections have no calls, and may have less than nothing of the rest.
func hasAll(sums, totals map[int64]Amounts) bool {
	for hour, total := range totals {
		if sum := sums[hour]; sum[Calls] <= total[Calls] && sum != total {
			return false
		}
	}
	return true
}
