package usage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"opper_exporter/opper"
)

// Source is where usage and the budget are read from; an *opper.Client is one.
type Source interface {
	Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error)
	Budget(ctx context.Context) (opper.Budget, error)
}

var (
	// errNoMinutes is that Opper has no usage by minutes.
	errNoMinutes = errors.New("no usage by the minute")
	// errTooMuch is usage that takes too much memory.
	errTooMuch = fmt.Errorf("more rows of usage than the limit of %d, with all windows", maxWeight)
	// errUnreadable is usage of another shape, where an unreadable row is only one.
	errUnreadable = errors.New("usage without a readable row (expected costs, counts and tokens as decimal numbers in range)")
)

// Pages is what is known of the size of Opper's pages, for the reads of usage of one key,
// one at a time. No paging is documented, so an answer that does not say how many rows
// there are may lack some: if no other had more rows, it is checked. What is known holds
// until the end of the window moves, which it does each hour. The zero value knows nothing.
type Pages struct {
	most  int   // rows of an answer; one with fewer is not cut
	end   int64 // hour: of the window
	parts int   // answers that lack rows, of the present read
	held  int   // rows by weight, of the present read
}

// maxWeight bounds what one read holds, by the Weight of rows. A month of 250 models is less,
// and so are 200,000 traces that wait for their costs.
const maxWeight = 200_000

// maxParts bounds the requests where many minutes have more rows than an answer: after
// that many, hours are not read by the minute any more.
const maxParts = 10

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
// too large, or that is or may be cut, is read again as two windows, down to one minute.
// If rows are still missing, or if Opper has no usage by minutes, those that are there
// are a part.
func (p *Pages) Read(ctx context.Context, src Source, from, to time.Time, groups ...opper.UsageGroup) ([]opper.Usage, error) {
	if end := hourOf(to); end != p.end {
		p.most, p.end = 0, end
	}
	p.parts, p.held = 0, 0
	rows, err := p.read(ctx, src, opper.UsageQuery{From: from, To: to, GroupBy: groups})
	if len(rows) > 0 && !slices.ContainsFunc(rows, func(u opper.Usage) bool { return !u.IsUnreadable() }) {
		return nil, errUnreadable
	}
	return rows, err
}

func (p *Pages) read(ctx context.Context, src Source, query opper.UsageQuery) ([]opper.Usage, error) {
	page, err := src.Usage(ctx, query)
	size := query.To.Sub(query.From)
	isComplete, isOther := false, func(u opper.Usage) bool { return u.Bucket.Before(query.From) || !u.Bucket.Before(query.To) }
	if size < time.Hour && (opper.Permanent(err) && !opper.Refused(err) || slices.ContainsFunc(page.Rows, isOther)) {
		return nil, errNoMinutes
	}
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
	present := slices.DeleteFunc(page.Rows, isOther)
	middle := middleOf(query, present)
	switch {
	case isComplete:
		return p.hold(present)
	case size <= time.Minute && err != nil:
		return nil, err
	case size <= time.Minute, size == time.Hour && err == nil && p.parts >= maxParts:
		return p.hold(p.part(present))
	}
	if size != time.Hour {
		present = nil // not held meanwhile
	}
	rows, narrower := p.halves(ctx, src, query, middle)
	switch {
	case size != time.Hour || !errors.Is(narrower, errNoMinutes):
		return rows, narrower
	case err != nil:
		return nil, err
	}
	return p.hold(p.part(present))
}

// hold returns rows unless the present read holds too many.
func (p *Pages) hold(rows []opper.Usage) ([]opper.Usage, error) {
	for i := range rows {
		p.held += rows[i].Weight()
	}
	if p.held > maxWeight {
		return nil, errTooMuch
	}
	return rows, nil
}

// halves reads a window as two.
func (p *Pages) halves(ctx context.Context, src Source, query opper.UsageQuery, middle time.Time) ([]opper.Usage, error) {
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

// part returns rows beside which others are missing.
func (p *Pages) part(rows []opper.Usage) []opper.Usage {
	p.parts++
	for i := range rows {
		rows[i].IsPart = true
	}
	return rows
}

// middleOf returns where to cut a window in two, so that both have rows of those that are
// known, if these are of several buckets; its begin if it has no two buckets. The rows of
// one hour do not say their minutes.
func middleOf(query opper.UsageQuery, rows []opper.Usage) time.Time {
	size, bucket := query.To.Sub(query.From), time.Hour
	if size <= time.Hour {
		bucket = time.Minute
	}
	buckets := make([]time.Time, len(rows))
	for i := range rows {
		buckets[i] = rows[i].Bucket
	}
	slices.SortFunc(buckets, time.Time.Compare)
	if n := len(buckets); n > 0 && size != time.Hour {
		middle := buckets[n/2]
		if middle.Equal(buckets[0]) {
			middle = middle.Add(bucket)
		}
		if middle.After(query.From) && middle.Before(query.To) {
			return middle
		}
	}
	return query.From.Add(size / 2).Truncate(bucket)
}

// check compares rows that may be cut with the totals of their hours. It returns the rows
// that are complete, as they grow between two requests. If the totals may be cut as well,
// only two shorter windows show whether there are more.
func (p *Pages) check(ctx context.Context, src Source, query opper.UsageQuery, rows []opper.Usage) (present []opper.Usage, isComplete bool, err error) {
	size := query.To.Sub(query.From)
	isBucket := size == time.Hour || size <= time.Minute
	if len(sumsOf(rows)) == len(rows) && !isBucket {
		return rows, false, nil
	}
	totals, err := src.Usage(ctx, opper.UsageQuery{From: query.From, To: query.To})
	if err != nil || len(totals.Rows) >= p.most && !isBucket {
		return rows, false, err
	}
	if !hasAll(rows, totals.Rows) {
		page, err := src.Usage(ctx, query)
		if rows = page.Rows; err != nil || !hasAll(rows, totals.Rows) {
			return rows, false, err
		}
		p.most = max(p.most, len(rows))
	}
	return rows, true, nil
}

// Incomplete returns the hours of which rows are missing.
func Incomplete(rows []opper.Usage) []time.Time {
	var hours []time.Time
	for i := range rows {
		if rows[i].IsPart {
			hours = append(hours, timeOf(hourOf(rows[i].Bucket)))
		}
	}
	slices.SortFunc(hours, time.Time.Compare)
	return slices.Compact(hours)
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

// hasAll reports whether the sums of each hour are not less than its total, in what can be
// read of both. Rows of corrections have no calls, and may have less than nothing of the
// rest.
func hasAll(rows, totals []opper.Usage) bool {
	sums, all, unreadable := sumsOf(rows), sumsOf(totals), map[int64][4]bool{}
	for _, u := range slices.Concat(rows, totals) {
		hour := unreadable[hourOf(u.Bucket)]
		for i, is := range u.Unreadable {
			hour[i] = hour[i] || is
		}
		unreadable[hourOf(u.Bucket)] = hour
	}
	for hour, total := range all {
		sum := sums[hour]
		if sum[Calls] > total[Calls] {
			continue
		}
		for i, is := range unreadable[hour] {
			if !is && sum[i] != total[i] {
				return false
			}
		}
	}
	return true
}
