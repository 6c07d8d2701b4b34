package opper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"time"
)

// Usage is one row of Opper's usage: what calls of one bucket cost, of one value of
// each group.
type Usage struct {
	Bucket time.Time // begin of the hour or the minute, UTC; see UsageQuery
	// Cost is in nanodollars, 10⁻⁹ US dollars, and rounded to them. It may be
	// negative, and is 0 if null.
	Cost         int64
	Calls        int64 // count; 0 if null or absent
	InputTokens  int64 // prompt_tokens; 0 if null or absent
	OutputTokens int64 // completion_tokens; 0 if null or absent
	// Unreadable says which of the amounts above could not be read, in their order: they
	// are 0.
	Unreadable [4]bool
	// IsPart is that rows of the same hour are missing. No answer says so: it is for those
	// who read several.
	IsPart bool
	// The groups are empty if null or not asked for. The trace is written as
	// Trace.ID is.
	Model, Project, Trace string
}

// IsUnreadable reports whether any of the amounts is.
func (u *Usage) IsUnreadable() bool { return u.Unreadable != [4]bool{} }

// UsageGroup is what rows of usage are told apart by, beside the hour.
type UsageGroup string

// The groups. A project is one of Opper's, by its UUID.
const (
	GroupModel   UsageGroup = "model"
	GroupProject UsageGroup = "project.uuid"
	GroupTrace   UsageGroup = "trace_uuid"
)

// UsageQuery is a window of usage and its groups. Buckets are hours, or minutes if the
// window is not one of whole hours.
type UsageQuery struct {
	From, To time.Time // To is exclusive; both are of whole minutes
	GroupBy  []UsageGroup
}

// bucket returns the size of the buckets, and its name.
func (q *UsageQuery) bucket() (time.Duration, string) {
	if q.From.Truncate(time.Hour).Equal(q.From) && q.To.Truncate(time.Hour).Equal(q.To) {
		return time.Hour, "hour"
	}
	return time.Minute, "minute"
}

// UsagePage is one answer with usage.
type UsagePage struct {
	Rows  []Usage // in Opper's order; the same hour and groups may be in several
	Total int     // how many rows there are, if Opper says so; else -1
}

// maxUsageRows bounds one answer by the Weight of its rows, as nothing in the request does.
const maxUsageRows = 1 << 17

// Weight is as how many rows a row counts where memory is bounded. It is 1 without texts
// that are longer than a UUID or the name of a model ever is.
func (u *Usage) Weight() int { return 1 + len(u.Model)/64 + len(u.Project)/64 + len(u.Trace)/64 }

var (
	// ErrNoGroup is usage of which no row has the key of a group that was asked for:
	// Opper does not know the group. A value that is null is another thing.
	ErrNoGroup = errors.New("usage without a group that was asked for")

	errNoUsage = errors.New("JSON without a list of usage rows (expected an array, bare or as \"data\")")
)

// Usage returns the usage of each bucket in a window. The error is an ErrNoGroup,
// ErrTooManyRows or ErrTooLarge, the context's if that ended, or else see Permanent.
func (c *Client) Usage(ctx context.Context, q UsageQuery) (UsagePage, error) {
	_, granularity := q.bucket()
	query := url.Values{
		"from_date":   {q.From.UTC().Format(time.RFC3339)},
		"to_date":     {q.To.UTC().Format(time.RFC3339)},
		"granularity": {granularity},
		"fields":      {"prompt_tokens", "completion_tokens"},
	}
	for _, group := range q.GroupBy {
		query.Add("group_by", string(group))
	}
	var answer usageAnswer
	err := c.read(ctx, c.root()+"/v2/analytics/usage", query, func(r io.Reader) (err error) {
		answer, err = decodeUsage(r, &q, maxUsageRows)
		return err
	})
	if err == nil {
		err = answer.missingGroup(q.GroupBy)
	}
	if err != nil {
		return UsagePage{}, fmt.Errorf("read usage: %w", err)
	}
	return answer.UsagePage, nil
}

// usageAnswer is a page, and the groups whose keys its rows have.
type usageAnswer struct {
	UsagePage
	groups map[UsageGroup]bool
}

func (a *usageAnswer) missingGroup(groups []UsageGroup) error {
	for _, group := range groups {
		if len(a.Rows) > 0 && !a.groups[group] {
			return fmt.Errorf("%w: %s", ErrNoGroup, group)
		}
	}
	return nil
}

// decodeUsage reads an answer to its end, up to a limit of weight. A row whose bucket cannot be read is an error,
// as nobody could tell later whether it has been counted.
func decodeUsage(r io.Reader, q *UsageQuery, limit int) (usageAnswer, error) {
	answer := usageAnswer{groups: map[UsageGroup]bool{}}
	answer.Total = -1
	hasList := false
	read := 0
	err := decode(r, func(d *decoder) {
		list := func() {
			answer.Rows = nil
			hasList = d.Array(func() {
				if read >= limit {
					d.tooMany(limit)
					return
				}
				row := d.usage(q, answer.groups, len(answer.Rows)+1)
				read += row.Weight()
				answer.Rows = append(answer.Rows, row)
			})
		}
		if d.Peek() == '[' {
			list()
			return
		}
		d.Object(func(key []byte) {
			switch string(key) {
			case "meta":
				answer.Total = d.total()
			case "data":
				list()
			default:
				d.Skip()
			}
		})
	})
	if err == nil && !hasList {
		err = errNoUsage
	}
	if err != nil {
		return usageAnswer{}, err
	}
	return answer, nil
}

// usage reads a row, by its number, and notes which groups it has.
func (d *decoder) usage(q *UsageQuery, has map[UsageGroup]bool, number int) (u Usage) {
	hasBucket, hasCost := false, false
	amount := func(n *int64, field, places int) {
		*n = 0
		if d.Peek() == 'n' {
			d.Skip()
			return
		}
		var ok bool
		*n, ok = d.decimal(places)
		u.Unreadable[field] = u.Unreadable[field] || !ok
	}
	d.Object(func(key []byte) {
		switch string(key) {
		case "time_bucket":
			u.Bucket, hasBucket = d.time()
		case "cost":
			hasCost = true
			amount(&u.Cost, 0, 9)
		case "count":
			amount(&u.Calls, 1, 0)
		case "prompt_tokens":
			amount(&u.InputTokens, 2, 0)
		case "completion_tokens":
			amount(&u.OutputTokens, 3, 0)
		default:
			d.usageGroup(&u, key, q.GroupBy, has)
		}
	})
	if !hasBucket {
		d.Fail(fmt.Errorf("usage row %d without a readable time_bucket (expected a time as in RFC 3339)", number))
	}
	size, _ := q.bucket()
	u.Bucket, u.Unreadable[0] = u.Bucket.Truncate(size), u.Unreadable[0] || !hasCost
	return u
}

// usageGroup reads the value of a key that may be one of the groups.
func (d *decoder) usageGroup(u *Usage, key []byte, groups []UsageGroup, has map[UsageGroup]bool) {
	group := UsageGroup(key)
	if group == "project_uuid" {
		group = GroupProject
	}
	if !slices.Contains(groups, group) {
		d.Skip()
		return
	}
	has[group] = true
	switch group {
	case GroupModel:
		u.Model, _ = d.label(maxID)
	case GroupProject:
		u.Project, _ = d.label(maxID)
	case GroupTrace:
		text, _ := d.String(maxID)
		u.Trace = string(text)
	default:
		d.Skip()
	}
}

// decimal reads a number, or a string that is one, in units of 10^-places; false for
// any other value.
func (d *decoder) decimal(places int) (int64, bool) {
	var text []byte
	if d.Peek() == '"' {
		text, _ = d.String(maxValue)
	} else {
		text, _ = d.Number()
	}
	return decimal(string(text), places)
}
