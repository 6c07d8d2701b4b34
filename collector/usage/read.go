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

// pageSize is the smallest number of rows that Opper might cut an answer to. No paging is
// documented.
const pageSize = 50

// ReadBy reads usage by a group and by Opper project, or by the group alone if Opper
// refuses to tell its projects apart or does not know that group. It reports whether they
// are told apart.
func ReadBy(ctx context.Context, src Source, group opper.UsageGroup, from, to time.Time) (rows []opper.Usage, byProject bool, err error) {
	rows, err = Read(ctx, src, from, to, group, opper.GroupProject)
	if opper.Permanent(err) && !opper.Refused(err) {
		rows, err = Read(ctx, src, from, to, group)
		return rows, false, err
	}
	return rows, true, err
}

// Read reads all rows of the hours in a window, and none of others. An answer that is
// too large, or that is or may be cut, is read again as two windows, down to one hour:
// it is an error if rows are still missing.
func Read(ctx context.Context, src Source, from, to time.Time, groups ...opper.UsageGroup) ([]opper.Usage, error) {
	query := opper.UsageQuery{From: from, To: to, GroupBy: groups}
	page, err := src.Usage(ctx, query)
	isComplete := false
	switch {
	case errors.Is(err, opper.ErrTooLarge), errors.Is(err, opper.ErrTooManyRows):
	case err != nil:
		return nil, err
	case page.Total > len(page.Rows):
	case page.Total < 0 && mayBeCut(page.Rows):
		if page.Rows, isComplete, err = readChecked(ctx, src, query); err != nil {
			return nil, err
		}
	default:
		isComplete = true
	}
	if isComplete {
		return slices.DeleteFunc(page.Rows, func(u opper.Usage) bool { return u.Bucket.Before(from) || !u.Bucket.Before(to) }), nil
	}
	middle := from.Add(to.Sub(from) / 2).Truncate(time.Hour)
	if !middle.After(from) {
		if err == nil {
			err = errCut
		}
		return nil, err
	}
	rows, err := Read(ctx, src, from, middle, groups...)
	if err != nil {
		return nil, err
	}
	late, err := Read(ctx, src, middle, to, groups...)
	if err != nil {
		return nil, err
	}
	return append(rows, late...), nil
}

// mayBeCut reports whether rows are as many as an answer may be cut to.
func mayBeCut(rows []opper.Usage) bool { return len(rows) > 0 && len(rows)%pageSize == 0 }

// readChecked reads a window whose rows may be cut. They are complete if they have all
// calls of the window's hours, which are fewer rows, and are read first as they grow.
func readChecked(ctx context.Context, src Source, query opper.UsageQuery) (rows []opper.Usage, isComplete bool, err error) {
	totals, err := src.Usage(ctx, opper.UsageQuery{From: query.From, To: query.To})
	if err != nil || mayBeCut(totals.Rows) {
		return nil, false, err
	}
	page, err := src.Usage(ctx, query)
	if err != nil {
		return nil, false, err
	}
	// Rows of corrections have no calls, and may have less than nothing of the rest.
	whole, all := sumOf(page.Rows), sumOf(totals.Rows)
	return page.Rows, whole[Calls] > all[Calls] || whole == all, nil
}

func sumOf(rows []opper.Usage) (sum Amounts) {
	for i := range rows {
		sum.add(amounts(&rows[i]))
	}
	return sum
}
