package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
)

// cutSource answers parts of what it has.
type cutSource struct {
	rows        []opper.Usage // of one group
	cut         int           // rows of an answer; 0 if all are in it
	newestFirst bool
	announces   bool // how many there are
	maxRows     int  // more are too large; 0 if none are
	failAfter   int  // requests; 0 is never
	requests    int
}

func (*cutSource) Budget(context.Context) (opper.Budget, error) { return opper.Budget{}, nil }

func (s *cutSource) Usage(_ context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	if s.requests++; s.failAfter > 0 && s.requests > s.failAfter {
		return opper.UsagePage{}, &opper.Error{Status: 503}
	}
	page := opper.UsagePage{Total: -1}
	totals := map[time.Time]int{}
	for _, u := range s.rows {
		if u.Bucket.Before(q.From) || !u.Bucket.Before(q.To) {
			continue
		}
		i, isKnown := totals[u.Bucket]
		if len(q.GroupBy) == 0 && isKnown {
			total := &page.Rows[i]
			total.Cost, total.Calls = total.Cost+u.Cost, total.Calls+u.Calls
			total.InputTokens, total.OutputTokens = total.InputTokens+u.InputTokens, total.OutputTokens+u.OutputTokens
			continue
		}
		totals[u.Bucket] = len(page.Rows)
		page.Rows = append(page.Rows, u)
	}
	if s.announces {
		page.Total = len(page.Rows)
	}
	if s.maxRows > 0 && len(page.Rows) > s.maxRows {
		return opper.UsagePage{}, fmt.Errorf("read usage: %w", opper.ErrTooLarge)
	}
	if s.newestFirst {
		slices.Reverse(page.Rows)
	}
	if s.cut > 0 {
		page.Rows = page.Rows[:min(s.cut, len(page.Rows))]
	}
	return page, nil
}

// What one read holds is bounded: by the number of rows, and by their texts.
func TestReadIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		rows  int // of each hour
		trace string
		fails bool
	}{
		"rows":               {maxWeight / 2, "", false},
		"too many rows":      {maxWeight/2 + 1, "", true},
		"UUIDs":              {maxWeight / 2, "3c90c3cc-0d44-4b50-8888-8dd25736052a", false},
		"long texts":         {maxWeight / 10, strings.Repeat("t", 300), false},
		"too much long text": {maxWeight/10 + 1, strings.Repeat("t", 300), true},
	} {
		t.Run(name, func(t *testing.T) {
			src := &cutSource{announces: true, maxRows: 2*c.rows - 1} // each hour has to be read alone
			for h := range 2 {
				for range c.rows {
					u := row(h, "X", "m", 1)
					u.Trace = c.trace
					src.rows = append(src.rows, u)
				}
			}
			rows, err := new(Pages).Read(t.Context(), src, noon, noon.Add(2*time.Hour), opper.GroupTrace)
			if want := 2 * c.rows; c.fails != errors.Is(err, errTooMuch) || !c.fails && (err != nil || len(rows) != want) {
				t.Errorf("got %d rows and %v, want %d, or an error: %t", len(rows), err, want, c.fails)
			}
		})
	}
}

// All rows of a window are read, or an error says that they are not, whatever answers are
// cut to.
func TestReadIsComplete(t *testing.T) {
	failed, parts := 0, 0
	for seed := range int64(400) {
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		src := &cutSource{announces: rng.IntN(2) == 0, cut: []int{0, 7, 20, 25, 33, 50, 100, 1000}[rng.IntN(8)], newestFirst: rng.IntN(2) == 0, maxRows: []int{0, 40, 120}[rng.IntN(3)]}
		hours, models := 1+rng.IntN(120), []int{1, 1 + rng.IntN(60)}[rng.IntN(2)]
		for h := range hours {
			for m := range 1 + rng.IntN(models) {
				src.rows = append(src.rows, row(h, "X", fmt.Sprint("m", m), 1))
			}
		}
		rows, err := new(Pages).Read(t.Context(), src, noon, noon.Add(time.Duration(hours)*time.Hour), opper.GroupModel)
		if err != nil {
			failed++
			if !errors.Is(err, opper.ErrTooLarge) {
				t.Fatal(err)
			}
			continue
		}
		if missing := Incomplete(rows); len(missing) > 0 {
			parts++
			checkParts(t, seed, rows, src.rows, missing)
			continue
		}
		if !slices.Equal(sorted(rows), sorted(src.rows)) {
			t.Fatalf("seed %d: read %d rows of %d (cut to %d, announced: %v)", seed, len(rows), len(src.rows), src.cut, src.announces)
		}
	}
	if failed == 0 || parts == 0 || failed+parts > 200 {
		t.Errorf("%d reads failed, and %d lack rows", failed, parts)
	}
}

// checkParts checks that all hours but those of which rows are missing are there in full,
// and of these as many rows as an answer has.
func checkParts(t *testing.T, seed int64, got, want []opper.Usage, missing []time.Time) {
	t.Helper()
	isMissing := func(u opper.Usage) bool { return slices.ContainsFunc(missing, u.Bucket.Equal) }
	whole := slices.DeleteFunc(slices.Clone(got), isMissing)
	if !slices.Equal(sorted(whole), sorted(slices.DeleteFunc(slices.Clone(want), isMissing))) {
		t.Fatalf("seed %d: hours beside those that lack rows lack some", seed)
	}
	for _, u := range got {
		if u.IsPart = false; isMissing(u) && !slices.Contains(want, u) {
			t.Fatalf("seed %d: %+v is made up", seed, u)
		}
	}
}

func TestReadRequests(t *testing.T) {
	var rows []opper.Usage
	for m := range 50 {
		rows = append(rows, row(m%2, "X", fmt.Sprint("m", m), 1))
	}
	more := append(slices.Clone(rows), row(1, "X", "n", 1))
	corrected := append(slices.Clone(rows), opper.Usage{Bucket: noon.Add(time.Hour), Project: "X", Model: "n", Cost: -1})
	var hour []opper.Usage
	for m := range 51 {
		hour = append(hour, row(0, "X", fmt.Sprint("m", m), 1))
	}
	for _, c := range []struct {
		what     string
		src      cutSource
		requests int
		missing  int // rows
		err      error
	}{
		{"no row", cutSource{}, 1, 0, nil},
		{"one row", cutSource{rows: rows[:1]}, 1, 0, nil},
		{"some rows", cutSource{rows: rows}, 2, 0, nil},
		{"announced rows", cutSource{rows: rows, announces: true}, 1, 0, nil},
		{"one row too many", cutSource{rows: more, cut: 50}, 3 + 2, 0, nil},
		{"one correction too many", cutSource{rows: corrected, cut: 50}, 3 + 2, 0, nil},
		{"one announced row too many", cutSource{rows: more, cut: 50, announces: true}, 1 + 2, 0, nil},
		// All of these are in one minute.
		{"one hour too many", cutSource{rows: hour, cut: 50}, 3 + 3 + 6 + 3, 1, nil},
		{"one announced hour too many", cutSource{rows: hour, cut: 50, announces: true}, 4 + 3, 1, nil},
		{"one hour too large", cutSource{rows: hour, maxRows: 50}, 10, 0, opper.ErrTooLarge},
	} {
		got, err := new(Pages).Read(t.Context(), &c.src, noon, noon.Add(16*time.Hour), opper.GroupModel)
		if !errors.Is(err, c.err) || err == nil && (len(got) != len(c.src.rows)-c.missing || c.missing == 0 && !slices.Equal(sorted(got), sorted(c.src.rows))) {
			t.Errorf("%s: read %d rows, %v", c.what, len(got), err)
		}
		if lacks := len(Incomplete(got)) > 0; lacks != (c.missing > 0) {
			t.Errorf("%s: says that rows are missing: %v", c.what, lacks)
		}
		if c.src.requests != c.requests {
			t.Errorf("%s: %d requests, want %d", c.what, c.src.requests, c.requests)
		}
	}
}

func sorted(rows []opper.Usage) []opper.Usage {
	return slices.SortedFunc(slices.Values(rows), func(a, b opper.Usage) int {
		return cmp.Or(a.Bucket.Compare(b.Bucket), cmp.Compare(a.Model, b.Model))
	})
}

// Answers are checked when an hour begins, and when there are more rows than in any
// answer since.
func TestPages(t *testing.T) {
	var pages Pages
	src := &cutSource{}
	end := 48
	read := func(what string, from, requests, want int) {
		t.Helper()
		src.requests = 0
		rows, err := pages.Read(t.Context(), src, noon.Add(time.Duration(from)*time.Hour), noon.Add(time.Duration(end)*time.Hour), opper.GroupModel)
		if err != nil || len(rows) != want || src.requests != requests {
			t.Errorf("%s: read %d rows with %d requests, want %d with %d: %v", what, len(rows), src.requests, want, requests, err)
		}
	}
	add := func(hour int, models ...string) {
		for _, m := range models {
			src.rows = append(src.rows, row(hour, "X", m, 1))
		}
	}
	read("none", 0, 1, 0)
	add(40, "a")
	read("one", 0, 1, 1)
	add(40, "b")
	read("two", 0, 2, 2)
	read("two again, of which there may be more by now", 39, 2, 2)
	add(41, "a", "b", "c")
	read("more", 0, 2, 5)
	read("less", 41, 1, 3)
	src.cut = 2 // from now on
	read("cut, which is not known yet", 41, 1, 2)
	end++
	src.cut = 4
	read("another hour", 0, 5, 5)
	read("fewer than are cut", 41, 1, 3)
	read("as many as are cut, and more", 0, 5, 5)
	end++
	src.cut = 0
	src.rows = nil
	for h := range 30 {
		add(h, "a")
	}
	read("one row in each hour", 0, 3, 30)
	read("some of them", 5, 1, 25)
}

// growing has one more call with each request.
type growing struct{ cutSource }

func (s *growing) Usage(ctx context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	u := &s.rows[len(s.rows)-1]
	u.Cost, u.Calls = u.Cost+1, u.Calls+1
	return s.cutSource.Usage(ctx, q)
}

func TestReadWhileUsageGrows(t *testing.T) {
	for cut, want := range map[int]int{0: 3, 4: 3 + 2} {
		src := &growing{cutSource{cut: cut}}
		for m := range 3 {
			src.rows = append(src.rows, row(0, "X", fmt.Sprint("m", m), 1), row(9, "X", fmt.Sprint("m", m), 1))
		}
		rows, err := new(Pages).Read(t.Context(), src, noon, noon.Add(10*time.Hour), opper.GroupModel)
		if err != nil || len(rows) != 6 || src.requests != want {
			t.Errorf("cut to %d: read %d rows with %d requests, want %d: %v", cut, len(rows), src.requests, want, err)
		}
	}
}

// minuteSource has rows of minutes, which it cuts, and answers them by the hour or by the
// minute.
type minuteSource struct {
	cutSource
	ignores bool // minutes: it answers by the hour
	refuses bool // minutes
	widens  bool // windows, to those of hours
}

func (s *minuteSource) Usage(_ context.Context, q opper.UsageQuery) (opper.UsagePage, error) {
	bucket := time.Hour
	if isPart := q.To.Sub(q.From) < time.Hour; isPart && !s.ignores {
		bucket = time.Minute
		if s.refuses {
			return opper.UsagePage{}, &opper.Error{Status: 422}
		}
	}
	if s.widens {
		q.From, q.To = q.From.Truncate(time.Hour), q.To.Add(time.Hour-1).Truncate(time.Hour)
	}
	page := opper.UsagePage{Total: -1}
	totals := map[time.Time]int{}
	for _, u := range s.rows {
		if u.Bucket.Before(q.From) || !u.Bucket.Before(q.To) {
			continue
		}
		u.Bucket = u.Bucket.Truncate(bucket)
		if i, isKnown := totals[u.Bucket]; isKnown && len(q.GroupBy) == 0 {
			page.Rows[i].Calls++
			page.Rows[i].Cost += u.Cost
			continue
		}
		totals[u.Bucket] = len(page.Rows)
		page.Rows = append(page.Rows, u)
	}
	if s.announces {
		page.Total = len(page.Rows)
	}
	page.Rows = page.Rows[:min(s.cut, len(page.Rows))]
	return page, nil
}

// An hour with more rows than an answer is read by the minute. Where that cannot be, rows
// are neither lost nor read twice.
func TestReadOfHourThatIsCut(t *testing.T) {
	var rows []opper.Usage
	for n := range 1000 {
		u := opper.Usage{Bucket: noon.Add(time.Duration(n%137) * time.Minute), Trace: fmt.Sprint("t", n), Cost: int64(n), Calls: 1}
		rows = append(rows, u)
	}
	for name, c := range map[string]struct {
		src    minuteSource
		traces int // that are read, of 1000
	}{
		"not announced": {minuteSource{cutSource: cutSource{cut: 20}}, 1000},
		"announced":     {minuteSource{cutSource: cutSource{cut: 20, announces: true}}, 1000},
		"each minute":   {minuteSource{cutSource: cutSource{cut: 7}}, 60*7 + 2*7},
		"ignored":       {minuteSource{cutSource: cutSource{cut: 100}, ignores: true}, 300},
		"refused":       {minuteSource{cutSource: cutSource{cut: 100}, refuses: true}, 300},
		"widened":       {minuteSource{cutSource: cutSource{cut: 100, announces: true}, widens: true}, 300},
	} {
		c.src.rows = rows
		got, isByProject, err := new(Pages).ReadBy(t.Context(), &c.src, opper.GroupTrace, noon.Add(-time.Hour), noon.Add(12*time.Hour))
		costs := map[string]int64{}
		for _, u := range got {
			costs[u.Trace] += u.Cost + 1
		}
		if isPart := len(Incomplete(got)) > 0; err != nil || !isByProject || len(costs) != c.traces || isPart != (c.traces < len(rows)) {
			t.Errorf("%s: read %d rows of %d traces, some are missing: %v, %v", name, len(got), len(costs), isPart, err)
		}
		for _, u := range rows {
			if cost, ok := costs[u.Trace]; ok && cost != u.Cost+1 {
				t.Errorf("%s: %s cost %d, read %d", name, u.Trace, u.Cost, cost-1)
			}
		}
	}
}

// everything answers all that there is, whatever is asked for.
type everything struct{ cutSource }

func (s *everything) Usage(context.Context, opper.UsageQuery) (opper.UsagePage, error) {
	return opper.UsagePage{Rows: slices.Clone(s.rows), Total: -1}, nil
}

func TestReadLeavesOutOtherHours(t *testing.T) {
	src := &everything{cutSource{rows: []opper.Usage{row(-1, "X", "m", 1), row(0, "X", "m", 1), row(1, "X", "m", 1), row(2, "X", "m", 1)}}}
	rows, err := new(Pages).Read(t.Context(), src, noon, noon.Add(2*time.Hour), opper.GroupModel)
	if err != nil || !slices.Equal(rows, []opper.Usage{row(0, "X", "m", 1), row(1, "X", "m", 1)}) {
		t.Errorf("read %v, %v", rows, err)
	}
}
