// Package server looks at the live series of the exporter on a Prometheus server:
// a history has to have their labels, and to end before their first sample.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
)

const (
	// metric is exposed of each name. It is a gauge: of a counter, a server may have a 0 of
	// its created timestamp, from before the first scrape.
	metric = "opper_traces_open"
	// oldest is longer than Opper lists a trace: older live samples leave no room
	// for a history, whatever their age.
	oldest = 32 * 24 * time.Hour
	// timeout is of each request; the first one reads all samples of a month.
	timeout = 2 * time.Minute
)

// Live is what a server says about the live series, and about itself.
type Live struct {
	// First is the first scrape of each project that has live series.
	First map[string]First
	// Older shows the labels of series that began at least an hour before, whose traces a
	// history would have again. It is empty if there are none.
	Older string
	// Retention is how long the server keeps samples; 0 if that depends on their
	// size alone, or is unknown.
	Retention time.Duration
	// Head is where the server's head begins: a block that ends later makes it drop
	// live samples of every series. It is zero if the head is empty or unknown.
	Head time.Time
}

// First is the first scrape of a project that had its live series.
type First struct {
	At time.Time
	// Exposed are the families that have a history as they were then, with the labels that
	// the server has added: job, instance and others.
	Exposed []*dto.MetricFamily
}

// ParseURL returns the URL of a server.
func ParseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("expected a URL such as http://localhost:9090, got %q", address)
	}
	return u, nil
}

// Look asks the server at u for the live series of the projects. The labels
// are those that the history shall have: each of them must be on the live series,
// and they tell one of several instances from the others.
func Look(ctx context.Context, u *url.URL, projects []string, labels map[string]string) (Live, error) {
	return lookAt(ctx, time.Now(), u, projects, labels)
}

func lookAt(ctx context.Context, now time.Time, u *url.URL, projects []string, labels map[string]string) (Live, error) {
	client, err := api.NewClient(api.Config{Address: u.String(), Client: &http.Client{Transport: jsonOnly{http.DefaultTransport}, Timeout: timeout}})
	if err != nil {
		return Live{}, fmt.Errorf("--from-server: %w", err)
	}
	s := server{v1.NewAPI(client)}
	live, err := s.look(ctx, now, projects, labels)
	if err != nil {
		return Live{}, fmt.Errorf("--from-server=%s: %w", u.Redacted(), err)
	}
	return live, nil
}

type server struct{ api v1.API }

func (s server) look(ctx context.Context, now time.Time, projects []string, given map[string]string) (Live, error) {
	// Each step looks back over the whole of it, so that nothing lies between two.
	tile := v1.Range{Start: now.Add(-oldest), End: now, Step: time.Hour}
	sets, err := s.present(ctx, metric, tile)
	if err != nil {
		return Live{}, err
	}
	chosen, older, err := choose(sets, projects, given)
	if err != nil {
		return Live{}, err
	}
	live := Live{First: map[string]First{}, Older: older}
	for project, one := range chosen {
		if live.First[project], err = s.firstScrape(ctx, one); err != nil {
			return Live{}, err
		}
	}
	// Servers that are not Prometheus itself do not have these two.
	var unknown *v1.Error
	info, err := s.api.Runtimeinfo(ctx)
	if err != nil && !errors.As(err, &unknown) {
		return Live{}, cause(err)
	}
	live.Retention = retention(info.StorageRetention)
	stats, err := s.api.TSDB(ctx)
	if err != nil && !errors.As(err, &unknown) {
		return Live{}, cause(err)
	}
	if head := int64(stats.HeadStats.MinTime); head > 0 && head < math.MaxInt64 {
		live.Head = time.UnixMilli(head)
	}
	return live, nil
}

// present returns, for each set of labels but the name of traces, the
// steps at whose end or before there are samples.
func (s server) present(ctx context.Context, selector string, r v1.Range) (model.Matrix, error) {
	query := fmt.Sprintf("group without (trace_name) (last_over_time(%s[%s]))", selector, model.Duration(r.Step))
	value, _, _, err := s.api.QueryRange(ctx, query, r)
	if err != nil {
		return nil, cause(err)
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("answers %s with a %s, expected a matrix", query, value.Type())
	}
	return matrix, nil
}

// firstScrape finds the first sample of live series, whose hour is known, in its minute, and
// returns all that was scraped then.
func (s server) firstScrape(ctx context.Context, of instance) (first First, err error) {
	series := metric + "{" + listed(of.labels) + "}"
	hour := of.begin.Time()
	sets, err := s.present(ctx, series, v1.Range{Start: hour.Add(-time.Hour), End: hour, Step: time.Minute})
	if err != nil {
		return first, err
	}
	if len(sets) == 0 {
		return first, fmt.Errorf("has no sample of %s any more", series)
	}
	first.At = sets[0].Values[0].Timestamp.Time()
	samples, err := s.samples(ctx, series+"[1m]", first.At)
	if err != nil {
		return first, err
	}
	for _, series := range samples {
		if len(series.Values) > 0 && series.Values[0].Timestamp.Time().Before(first.At) {
			first.At = series.Values[0].Timestamp.Time()
		}
	}
	first.Exposed, err = s.exposed(ctx, of.labels, first.At)
	return first, err
}

// samples returns those of a range until a time.
func (s server) samples(ctx context.Context, query string, end time.Time) (model.Matrix, error) {
	value, _, _, err := s.api.Query(ctx, query, end)
	if err != nil {
		return nil, cause(err)
	}
	samples, _ := value.(model.Matrix)
	return samples, nil
}

// instance is what live series of a project with the same labels come from.
type instance struct {
	labels map[string]string
	begin  model.Time // of the step in which the first sample is
}

// choose returns where the live series of each project come from, and shows the labels of
// series that began before.
func choose(sets model.Matrix, projects []string, given map[string]string) (chosen map[string]instance, older string, err error) {
	if len(sets) == 0 {
		return nil, "", fmt.Errorf("has no series %s of the last %d days: does it scrape the exporter?", metric, int(oldest.Hours()/24))
	}
	found := map[string][]instance{}
	var others []string
	for _, set := range sets {
		one := instance{map[string]string{}, set.Values[0].Timestamp}
		for name, value := range set.Metric {
			one.labels[string(name)] = string(value)
		}
		project := one.labels["project"]
		if found[project] = append(found[project], one); !slices.Contains(projects, project) {
			others = append(others, fmt.Sprintf("project=%q", project))
		}
	}
	chosen = map[string]instance{}
	var all []instance
	for _, project := range projects {
		all = append(all, found[project]...)
		matching := slices.DeleteFunc(slices.Clone(found[project]), func(one instance) bool { return !one.has(given) })
		switch len(matching) {
		case 0: // it may have no traces
		case 1:
			chosen[project] = matching[0]
			if first := slices.MinFunc(found[project], func(a, b instance) int { return cmp.Compare(a.begin, b.begin) }); first.begin < matching[0].begin {
				older = listed(first.labels)
			}
		default:
			return nil, "", fmt.Errorf("has the live series of several instances, choose one with --label: %s", listedAll(matching))
		}
	}
	switch {
	case len(all) == 0:
		slices.Sort(others)
		return nil, "", fmt.Errorf("has no series %s of project %s, only of %s", metric, strings.Join(projects, ", "), strings.Join(slices.Compact(others), ", "))
	case len(chosen) == 0:
		return nil, "", fmt.Errorf("--label: no live series has %s: they have %s", listed(given), listedAll(all))
	}
	return chosen, older, nil
}

func (i instance) has(labels map[string]string) bool {
	for name, value := range labels {
		if i.labels[name] != value {
			return false
		}
	}
	return true
}

// listedAll shows at most four: an exporter that moves with each deployment leaves many.
func listedAll(instances []instance) string {
	const shown = 4
	var texts []string
	for _, one := range instances {
		texts = append(texts, listed(one.labels))
	}
	slices.Sort(texts)
	if n := len(texts); n > shown {
		texts = append(texts[:shown], fmt.Sprintf("%d more", n-shown))
	}
	return strings.Join(texts, "; ")
}

func listed(labels map[string]string) string {
	var pairs []string
	for name, value := range labels {
		if !model.LegacyValidation.IsValidLabelName(name) {
			name = strconv.Quote(name)
		}
		pairs = append(pairs, fmt.Sprintf("%s=%q", name, value))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ", ")
}

// retention reads what a server shows of its retention, such as "15d or 10GiB". Less
// than the time may be kept for the sake of the size, which cannot be known before.
func retention(text string) time.Duration {
	for part := range strings.SplitSeq(text, " or ") {
		if d, err := model.ParseDuration(part); err == nil {
			return time.Duration(d)
		}
	}
	return 0
}

// jsonOnly turns any answer that is not JSON into an error: a login page, another
// program, a proxy's complaint.
type jsonOnly struct{ next http.RoundTripper }

func (j jsonOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := j.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // empty if it is malformed
	// Not every server has the endpoints about itself.
	missing := resp.StatusCode/100 == 4 && strings.Contains(req.URL.Path, "/status/")
	if kind == "application/json" || missing {
		return resp, nil
	}
	_ = resp.Body.Close() // nothing of it is read
	if kind == "" {
		kind = "no type of content"
	}
	return nil, fmt.Errorf("answers %s with %s (%s), expected JSON of Prometheus' API", req.URL.Path, kind, resp.Status)
}

// cause leaves out the request, whose URL stands before it already.
func cause(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}
