package check

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// hugePage is in bytes: an exporter that reads such pages is a load.
const hugePage = 10_000_000

const network = "Check --opper.url, the network, and the proxy in HTTPS_PROXY or --opper.http-config-file."

// failure says what an error of a request means, and what to do.
func failure(err error, cfg *config.Project) (text, advice string) {
	const newKey = "Create an API key of the project at Opper, and put it into the "
	reason := strings.TrimPrefix(err.Error(), "list traces: ")
	status := statusCode(err)
	switch {
	case opper.HTML(err):
		return "The URL answers with a web page, not with Opper's API (" + reason + ").",
			"It is a login page, a proxy or a gateway. Check --opper.url, and the proxy in HTTPS_PROXY or --opper.http-config-file."
	case status == 401:
		return "Opper refuses the key (401): it is mistyped, revoked, or not of this URL.", newKey + place(cfg) + "."
	case opper.Refused(err):
		return fmt.Sprintf("Opper refuses access (%d): the key has none, or the account is suspended.", status), "Look at the account and the key at Opper."
	case status == 429:
		rate := "no limit"
		if cfg.Opper.RequestsPerSecond > 0 {
			rate = fmt.Sprint(cfg.Opper.RequestsPerSecond)
		}
		return "Opper limits the requests of this key (429).",
			fmt.Sprintf("Try again in %s. If it stays, lower --opper.max-requests-per-second (now %s), or find what else uses the key: the exporter should have one of its own.",
				flagValue(max(opper.RetryAfter(err).Round(time.Second), time.Minute)), rate)
	case status >= 500:
		return "Opper fails: " + reason + ".", "Try again later. A running exporter tries again at each interval, and catches up."
	case status == 404:
		return fmt.Sprintf("There is no list of traces at %s/traces (404).", cfg.UpstreamURL), "Set --opper.url to the base URL, with or without /v2, and without /traces."
	case status >= 300 && status <= 399:
		return fmt.Sprintf("The URL redirects (%d), which is not followed: another host must not get the key.", status), "Set --opper.url to where it leads."
	case status != 0:
		return "Opper refuses the request: " + reason + ".", "Report this: the API is not as documented."
	case opper.Unreadable(err):
		return "Opper's answer cannot be used: " + reason + ".",
			fmt.Sprintf("If answers are slow, raise --opper.timeout (now %s). Else look for a proxy that cuts or changes them.", flagValue(cfg.Opper.Timeout))
	}
	return "Opper cannot be reached: " + reason + ".", network
}

// place says where to put a key.
func place(cfg *config.Project) string {
	if file, ok := strings.CutPrefix(cfg.KeyOrigin, "--opper.api-key-file "); ok {
		return "file " + printable(file)
	}
	return cfg.KeyOrigin
}

func (r *Report) problem(text, advice string, flags ...string) {
	r.Problems = append(r.Problems, Finding{text, advice, flags})
}

func (r *Report) note(text, advice string) {
	r.Notes = append(r.Notes, Finding{Text: text, Advice: advice})
}

// findings fills in what is wrong, and what is worth to know.
func (r *Report) findings(s *sample, cfg *config.Project) {
	isSlow := s.slowest >= cfg.Opper.Timeout/2 || cfg.Interval > 0 && 2*s.slowest >= cfg.Interval
	switch {
	case s.isStopped() && s.rows == 0:
		r.problem(fmt.Sprintf("No usable answer came within %s.", short(s.took)),
			network+fmt.Sprintf(" If Opper is that slow, raise --opper.timeout (now %s).", flagValue(cfg.Opper.Timeout)))
	case s.err != nil && !s.isStopped():
		text, advice := failure(s.err, cfg)
		r.problem(text, advice)
	case s.limited > 0:
		text, advice := failure(&opper.Error{Status: 429}, cfg)
		r.problem(text, advice)
	}
	if s.isStopped() && s.rows > 0 {
		advice := "Try again when Opper answers faster."
		if !isSlow {
			advice = "Try again, with a higher --opper.max-requests-per-second or when Opper answers faster."
		}
		r.note(fmt.Sprintf("Stopped after %s, with %d of %d pages read. The report covers only these.", short(s.took), len(s.pages), s.planned), advice)
	}
	if isSlow && s.rows > 0 {
		r.problem(fmt.Sprintf("Opper is slow: a page of %d traces takes %s.", opper.PageSize, short(s.slowest)), fmt.Sprintf("Set --opper.timeout (now %s) to at least three times that, and --collector.interval (now %s) to more than two pages take.", flagValue(cfg.Opper.Timeout), flagValue(cfg.Interval)))
	}
	if r.List == nil {
		return
	}
	r.listFindings(s, cfg)
	r.stateFindings()
	if r.Usage != nil {
		r.usageFindings()
		r.budgetFindings()
	}
}

func (r *Report) listFindings(s *sample, cfg *config.Project) {
	l := r.List
	if s.rows == 0 && r.Usage.flows() && cfg.Opper.Name == "" {
		r.note("Opper lists no traces, only usage: without a retention rule, it stores none.",
			"Cost, tokens and calls by model are exported all the same. To count traces, give the project a retention rule of 1 to 30 days.")
		return
	}
	if s.rows == 0 {
		advice := "Opper stores traces only under a retention rule: give the project one of 1 to 30 days, and run an agent. Or the key is of another project."
		if cfg.Opper.Name != "" {
			advice = "Check --opper.name-filter: no trace may have that name. " + advice
		}
		r.problem("Opper lists no traces, so there is nothing to count.", advice)
		return
	}
	if l.Listed == nil {
		r.note("Opper does not say how many traces are listed (meta.total_count).", "Estimates are too low, and only sweeps find traces that arrive out of order.")
	}
	if s.refused > 0 {
		r.problem(fmt.Sprintf("Opper refuses to list from offset %d on: traces beyond are not counted.", s.refused), "Shorten the retention rule at Opper, so that fewer traces are listed.")
	}
	if l.Order == unsorted && (s.total > opper.PageSize || !s.complete) {
		r.problem("The list is not sorted by time: new traces may be anywhere, and only full scans find them, one after another.",
			fmt.Sprintf("Traces are counted late, at a cost of %s a day. Report the order to Opper; a shorter retention rule makes full scans cheaper.", size(r.Traffic.SweepBytes)))
	}
	if r.Traffic.PageBytes >= hugePage {
		r.problem(fmt.Sprintf("Traces are large: a page of %d has %s, and an idle exporter receives %s a day.", opper.PageSize, size(r.Traffic.TraceBytes*opper.PageSize), size(r.Traffic.IdleBytes)),
			fmt.Sprintf("Opper sends inputs and outputs with each row. Raise --collector.interval (now %s) and --collector.sweep-interval (now %s) for less traffic.", flagValue(cfg.Interval), flagValue(cfg.SweepInterval)))
	}
	r.unmapped(cfg)
	r.unusable()
	if n := len(l.Names); n > l.MaxNames {
		r.problem(fmt.Sprintf("%s names are more than the limit of %d: traces of the rest are counted as %s.", r.atLeast(n), l.MaxNames, aggregate.Other),
			"Raise --collector.max-trace-names, or merge names that contain users or identifiers: --collector.trace-name-rewrite.")
	}
	if l.Excluded > 0 && len(l.Names) == 0 {
		r.problem("All traces that were read are excluded by their names.", "Check --collector.trace-name-include and --collector.trace-name-exclude.")
	}
	if l.Ended > 0 && l.NoTokens == l.Ended {
		advice := "Traces without a model call have none."
		if strings.HasSuffix(r.URL, "/v3") {
			advice = "The list of v3 has none: use /v2."
		}
		r.note("No trace has tokens.", advice)
	}
	if i := slices.IndexFunc(l.Names, func(n Name) bool { return n.Name == aggregate.Unnamed }); i >= 0 && l.Names[i].Traces*4 >= l.Ended+l.Open {
		r.note(fmt.Sprintf("%d traces have no name.", l.Names[i].Traces), "Calls through Opper's compatible endpoints are named by the request header X-Opper-Name.")
	}
}

// unusable says what makes numbers wrong that look right: traces that cannot be counted,
// or not by what matters.
func (r *Report) unusable() {
	l := r.List
	if l.NoID > 0 {
		r.problem(r.atLeast(l.NoID)+" traces have no id and are never counted.", "Nothing can be fixed on this side: report them to Opper.")
	}
	for _, s := range l.Statuses {
		if s.Status == "" && 2*s.Traces > l.Ended {
			r.problem(fmt.Sprintf("%d of %d ended traces have no status: their outcome is unknown, and success rates are too low.", s.Traces, l.Ended), "Let the agents set the status of their traces.")
		}
	}
	if l.Ended > 0 && l.NoLength+l.BadLength == l.Ended {
		r.problem("No trace has a usable duration.", "Let the agents set the start and the end of their traces; check their clocks if durations are negative.")
	}
	if l.Ended == 0 && l.Open > 0 && r.Sample.Complete {
		r.problem(fmt.Sprintf("All %d traces are open: only traces that end are counted.", l.Open), "Let the agents set the end of their traces. Until then they are counted as abandoned after --collector.abandon-after.")
	}
}

// unmapped names the statuses that are in neither list.
func (r *Report) unmapped(cfg *config.Project) {
	var words []string
	traces := 0
	for _, s := range r.List.Statuses {
		if s.Status != "" && !s.Mapped {
			words = append(words, s.Status)
			traces += s.Traces
		}
	}
	if len(words) == 0 {
		return
	}
	words = words[:min(len(words), aggregate.MaxUnmapped)]
	flag := func(name string, list []string) string {
		return "--collector." + name + "-status=" + shellQuoted(strings.Join(append(slices.Clone(list), words...), ","))
	}
	r.problem(fmt.Sprintf("%d of %d ended traces have a status in neither list (%s): their outcome is unknown.", traces, r.List.Ended, strings.Join(words, ", ")),
		"Add each status to one of these lists, not to both, and restart. Traces that have been counted stay unknown.", flag("success", cfg.Aggregate.Success), flag("failure", cfg.Aggregate.Failure))
}

var plainWord = regexp.MustCompile(`^[\w,.:/-]+$`)

func shellQuoted(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// atLeast says that a number is of a sample, if it is.
func (r *Report) atLeast(n int) string {
	if r.Sample.Complete {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("At least %d", n)
}

func (r *Report) stateFindings() {
	switch r.State.Result {
	case stateOther:
		r.problem(fmt.Sprintf("The state in --storage.path is of another upstream: it knows none of the %d traces that were read, although most began before its last sync.", r.Sample.Traces),
			"Put the right key back, or give this project another --opper.project: it has a state of its own there.")
	case stateUnusable:
		r.problem("The state cannot be used: "+clean(r.State.Error)+".", "The exporter would end with this error, too.")
	}
}

// flagValue writes a duration as a flag takes it.
func flagValue(d time.Duration) string { return model.Duration(d).String() }
