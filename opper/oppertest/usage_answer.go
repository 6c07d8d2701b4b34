package oppertest

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// UsageQuery is what a request of usage asks for.
type UsageQuery struct {
	From, To    time.Time // To is exclusive
	Granularity string
	GroupBy     []string
	Fields      []string
}

// UsageRow is a row of usage as a good reader has it. A group that is null, or that
// was not asked for, is "".
type UsageRow struct {
	Bucket time.Time
	Amounts
	Unreadable                               bool // the cost, which is 0 then
	Model, Project, ProjectName, Trace, Span string
}

// UsageAnswer is an answer of usage as a good reader has it.
type UsageAnswer struct {
	Status int // no other than 200 has rows
	Rows   []UsageRow
	Total  int      // meta.total_count; -1 if it is not there
	Groups []string // those whose keys the rows have
}

// ReadUsage reads usage as GET /v2/analytics/usage does, by the minute if the window is not
// one of hours, without HTTP and without the hook; see List. Faults take the place of the answer: then its Status
// is 0.
func (s *Server) ReadUsage(from, to time.Time, groups ...string) UsageAnswer {
	req := Request{Endpoint: UsageEndpoint, Usage: UsageQuery{From: from, To: to, Granularity: "hour", GroupBy: groups}}
	if from.Truncate(time.Hour) != from || to.Truncate(time.Hour) != to {
		req.Usage.Granularity = "minute"
	}
	s.number(&req)
	if s.takeFault(req) != nil {
		return UsageAnswer{}
	}
	a := s.usage.read(req, s.cfg.Project)
	if a.status != http.StatusOK {
		return UsageAnswer{Status: a.status}
	}
	s.recordUsage(req, a)
	out := UsageAnswer{Status: a.status, Total: -1, Groups: a.groups}
	if a.wrapped {
		out.Total = a.total
	}
	for _, r := range a.rows {
		row := UsageRow{Bucket: r.bucket, Amounts: r.amounts, Unreadable: r.unreadable}
		for i, group := range a.groups {
			switch group {
			case "model":
				row.Model = textOr(r.values[i])
			case "project.uuid":
				row.Project = textOr(r.values[i])
			case "project.name":
				row.ProjectName = textOr(r.values[i])
			case "trace_uuid":
				row.Trace = textOr(r.values[i])
			case "span_uuid":
				row.Span = textOr(r.values[i])
			}
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

func (s *Server) takeFault(req Request) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault(req, nil)
}

// answerUsage answers requests of usage and of budgets.
func (s *Server) answerUsage(req Request, wrong *refusal) (answer, Answer) {
	a := answer{status: http.StatusOK, v3: req.V3}
	fault := s.takeFault(req)
	switch {
	case wrong != nil:
		a.refuse(wrong.status, wrong.message)
	case req.Endpoint == BudgetEndpoint:
		b, text := s.usage.budget(req, s.cfg.Project)
		if a.text = text; b.Status != http.StatusOK {
			a.refuse(b.Status, http.StatusText(b.Status))
		}
	default:
		u := s.usage.read(req, s.cfg.Project)
		if u.status != http.StatusOK {
			a.refuse(u.status, u.message)
			break
		}
		a.text = s.usage.write(req, u)
		if fault == nil {
			s.recordUsage(req, u)
		}
	}
	return a, fault
}

// recordUsage notes what was served, if it is the whole of what was asked for.
func (s *Server) recordUsage(req Request, a usageAnswer) {
	model, project := slices.Index(a.groups, "model"), slices.Index(a.groups, "project.uuid")
	if s.cfg.NoRecord || model < 0 || project < 0 || len(a.rows) < a.total || req.Usage.Granularity != "hour" {
		return
	}
	sums, isUnreadable := map[HourKey]Amounts{}, map[HourKey]bool{}
	for _, r := range a.rows {
		k := HourKey{r.bucket, ModelKey{textOr(r.values[project]), textOr(r.values[model])}}
		sum := sums[k]
		sum.add(r.amounts, 1)
		sums[k] = sum
		isUnreadable[k] = isUnreadable[k] || r.unreadable
	}
	maps.DeleteFunc(sums, func(k HourKey, _ Amounts) bool { return isUnreadable[k] })
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, sum := range sums {
		if highest, ok := s.usageServed[k]; ok {
			sum.raise(highest)
		}
		s.usageServed[k] = sum
	}
}

// usageFields are the fields that can be asked for.
var usageFields = []string{"prompt_tokens", "completion_tokens", "total_tokens"}

func (u *Usage) parse(query url.Values) (UsageQuery, *refusal) {
	unprocessable := func(name string) (UsageQuery, *refusal) {
		return UsageQuery{}, &refusal{http.StatusUnprocessableEntity, name + " is not valid"}
	}
	list := func(name string) (all []string) {
		for _, value := range query[name] {
			all = append(all, strings.Split(value, ",")...)
		}
		return all
	}
	now := u.cfg.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	q := UsageQuery{From: month, To: month.AddDate(0, 1, 0), Granularity: "day", GroupBy: list("group_by"), Fields: list("fields")}
	for name, value := range map[string]*time.Time{"from_date": &q.From, "to_date": &q.To} {
		if !query.Has(name) {
			continue
		}
		var err error
		if *value, err = time.Parse(time.RFC3339, query.Get(name)); err != nil {
			if *value, err = time.Parse(time.DateOnly, query.Get(name)); err != nil {
				return unprocessable(name)
			}
		}
	}
	if query.Has("granularity") {
		q.Granularity = query.Get("granularity")
	}
	if _, ok := granularities[q.Granularity]; !ok {
		return unprocessable("granularity")
	}
	for _, field := range q.Fields {
		if !slices.Contains(usageFields, field) {
			return unprocessable("fields")
		}
	}
	return q, nil
}

// granularities are the begins of what a time is in.
var granularities = map[string]func(time.Time) time.Time{
	"minute": func(t time.Time) time.Time { return t.Truncate(time.Minute) },
	"hour":   func(t time.Time) time.Time { return t.Truncate(time.Hour) },
	"day":    func(t time.Time) time.Time { return t.Truncate(24 * time.Hour) },
	"month":  func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) },
	"year":   func(t time.Time) time.Time { return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC) },
}

// usageAnswer is an answer before it is written.
type usageAnswer struct {
	status  int
	message string // of a refusal
	rows    []usageRow
	total   int // before rows were cut off
	groups  []string
	wrapped bool
	t       UsageTroubles
}

type usageRow struct {
	bucket  time.Time
	values  []*string // of the groups
	amounts Amounts
	// unreadable is that the cost is, which is 0 here.
	unreadable bool
}

func (u *Usage) latency() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.troubles.Latency
}

// rng goes by the seed and a request, so that answers do not depend on what else is
// asked for.
func (u *Usage) rng(req Request) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(u.cfg.Seed), uint64(req.N)<<2|uint64(req.Endpoint)|1<<63))
}

// outage is the status of an answer by chance; 0 if it is none.
func (t *UsageTroubles) outage(rng *rand.Rand) int {
	if rng.Float64() >= t.Errors {
		return 0
	}
	return []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}[rng.IntN(4)]
}

// read reads usage as the key of a project sees it.
func (u *Usage) read(req Request, reader string) usageAnswer {
	u.mu.Lock()
	defer u.mu.Unlock()
	t, q, rng := u.troubles, req.Usage, u.rng(req)
	a := usageAnswer{status: http.StatusOK, wrapped: t.Wrapped, t: t}
	refuse := func(status int) usageAnswer { return usageAnswer{status: status, message: http.StatusText(status)} }
	if status := t.outage(rng); status != 0 {
		return refuse(status)
	}
	if t.Status != 0 {
		return refuse(t.Status)
	}
	for _, group := range q.GroupBy {
		if slices.Contains(t.RefuseGroups, group) {
			return usageAnswer{status: http.StatusUnprocessableEntity, message: group + " is no group"}
		}
		if !slices.Contains(t.NoGroups, group) {
			a.groups = append(a.groups, group)
		}
	}

	at := u.cfg.Now()
	if rng.Float64() < t.Stale {
		at = at.Add(-t.StaleBy)
	}
	index := map[string]int{}
	u.each(at, q.From.Unix(), q.To.Unix(), func(e *entry, amounts Amounts) {
		if !t.OrganizationWide && *e.owner != reader {
			return
		}
		row := usageRow{bucket: granularities[q.Granularity](time.Unix(e.at, 0).UTC())}
		key := row.bucket.AppendFormat(nil, time.RFC3339)
		for _, group := range a.groups {
			value := u.value(e, group)
			row.values = append(row.values, value)
			if value == nil {
				key = append(key, "\x00null"...)
			} else {
				key = append(append(key, "\x00:"...), *value...)
			}
		}
		key = append(key, 0, u.part(key, e.seq))
		i, ok := index[string(key)]
		if !ok {
			i = len(a.rows)
			index[string(key)] = i
			row.unreadable = len(a.rows) > 0 && u.isUnreadable(key, at)
			a.rows = append(a.rows, row)
		}
		if a.rows[i].unreadable {
			amounts.Cost = 0
		}
		a.rows[i].amounts.add(amounts, 1)
	})
	if t.Shuffle {
		rng.Shuffle(len(a.rows), func(i, j int) { a.rows[i], a.rows[j] = a.rows[j], a.rows[i] })
	}
	a.total = len(a.rows)
	if t.MaxRows > 0 {
		a.rows = a.rows[:min(t.MaxRows, a.total)]
	}
	return a
}

// isUnreadable decides whether the row of a key is unreadable at a time.
func (u *Usage) isUnreadable(key []byte, at time.Time) bool {
	return u.troubles.Unreadable > 0 && u.rngOf(at.Truncate(time.Minute).AppendFormat(key, time.RFC3339)).Float64() < u.troubles.Unreadable
}

// rngOf goes by the seed and a key.
func (u *Usage) rngOf(key []byte) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write(key) // it never fails
	return rand.New(rand.NewPCG(uint64(u.cfg.Seed), h.Sum64()))
}

// part is in which of the rows of a key an entry is.
func (u *Usage) part(key []byte, seq uint64) byte {
	if u.troubles.Duplicates <= 0 {
		return 0
	}
	rng := u.rngOf(key)
	if rng.Float64() >= u.troubles.Duplicates {
		return 0
	}
	return byte(seq % (2 + rng.Uint64N(2)))
}

// value is that of a group; nil is null. No call has a tag.
func (u *Usage) value(e *entry, group string) *string {
	switch group {
	case "model":
		return e.model
	case "project.uuid":
		return e.project
	case "project.name":
		if e.project == nil {
			return nil
		}
		if name, ok := u.names[*e.project]; ok {
			return &name
		}
		return new("project " + *e.project)
	case "trace_uuid":
		if e.trace == "" {
			return nil
		}
		return &e.trace
	case "span_uuid":
		if e.trace == "" {
			return nil
		}
		return new(fmt.Sprintf("00000000-0000-4000-8000-%012x", e.seq))
	}
	return nil
}
