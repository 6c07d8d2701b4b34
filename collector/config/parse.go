package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/scrape"
)

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		// Prometheus has days and weeks.
		var long model.Duration
		if long, err = model.ParseDuration(text); err != nil {
			return 0, fmt.Errorf("expected a duration such as 30s or 1d, got %q", text)
		}
		d = time.Duration(long)
	}
	if d < 0 {
		return 0, fmt.Errorf("expected a duration that is not negative, got %q", text)
	}
	return d, nil
}

func parsePositiveDuration(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d == 0 {
		return 0, fmt.Errorf("expected a duration above 0, got %q", text)
	}
	return d, err
}

// minUsageInterval is well below the 30 s that Opper takes to add up usage: more
// reads would show nothing sooner.
const minUsageInterval = 10 * time.Second

func parseUsageInterval(text string) (time.Duration, error) {
	d, err := parseDuration(text)
	if err == nil && d != 0 && d < minUsageInterval {
		return 0, fmt.Errorf("expected at least %s, or 0s to disable, got %q", minUsageInterval, text)
	}
	return d, err
}

func parseInt(minimum int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < minimum {
			return 0, fmt.Errorf("expected a whole number of at least %d, got %q", minimum, text)
		}
		return n, nil
	}
}

func parseRate(text string) (float64, error) {
	r, err := strconv.ParseFloat(text, 64)
	if err != nil || !(r >= 0) || math.IsInf(r, 0) {
		return 0, fmt.Errorf("expected a number of at least 0, got %q", text)
	}
	return r, nil
}

func parseRegexp(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	// Alone first: the group around it would make a)|(b valid, and unanchored.
	re, err := regexp.Compile(text)
	if err == nil {
		re, err = regexp.Compile("^(?s:" + text + ")$")
	}
	if err != nil {
		return nil, fmt.Errorf("expected a regular expression: %w", err)
	}
	return re, nil
}

var reference = regexp.MustCompile(`\$(?:\$|(\w+)|\{(\w+)\})?`)

// parseRewrite splits at the last =, as replacements seldom contain one.
func parseRewrite(text string) (aggregate.Rewrite, error) {
	i := strings.LastIndexByte(text, '=')
	if i < 1 {
		return aggregate.Rewrite{}, fmt.Errorf("expected 'REGEX=REPLACEMENT', got %q", text)
	}
	pattern, err := parseRegexp(text[:i])
	if err != nil {
		return aggregate.Rewrite{}, err
	}
	w := aggregate.Rewrite{Pattern: pattern, Replacement: text[i+1:]}
	if !utf8.ValidString(w.Replacement) {
		return w, fmt.Errorf("expected UTF-8 text that is not empty, got %q", w.Replacement)
	}
	var groups []string
	for i, name := range pattern.SubexpNames() {
		groups = append(groups, strconv.Itoa(i), name)
	}
	for _, ref := range reference.FindAllStringSubmatch(w.Replacement, -1) {
		if group := ref[1] + ref[2]; ref[0] != "$$" && (group == "" || !slices.Contains(groups, group)) {
			return w, fmt.Errorf("expected %q to be a group of the regular expression, as $1 or ${name}, or $$ for the character itself", ref[0])
		}
	}
	return w, nil
}

func parseBuckets(text string) ([]float64, error) {
	var bounds []float64
	for field := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		b, err := strconv.ParseFloat(field, 64)
		if err != nil || !(b > 0) || math.IsInf(b, 0) {
			return nil, fmt.Errorf("expected positive numbers separated by commas, got %q", field)
		}
		if len(bounds) > 0 && b <= bounds[len(bounds)-1] {
			return nil, fmt.Errorf("expected increasing numbers, got %q after %g", field, bounds[len(bounds)-1])
		}
		bounds = append(bounds, b)
	}
	if len(bounds) == 0 {
		return nil, errors.New("expected at least one number")
	}
	return bounds, nil
}

// maxLabel is far above what a name needs, and far below what the state and URLs
// can hold.
const maxLabel = 1024

func parseLabel(text string) (string, error) {
	if len(text) > maxLabel {
		return "", fmt.Errorf("expected at most %d bytes, got %d", maxLabel, len(text))
	}
	if text == "" || !utf8.ValidString(text) {
		return "", fmt.Errorf("expected UTF-8 text that is not empty, got %q", text)
	}
	return text, nil
}

// parseProject refuses an API key: the name is a label, which is public.
func parseProject(text string) (string, error) {
	if apiKey.MatchString(text) {
		return "", errors.New("expected a name, got an API key")
	}
	return parseLabel(text)
}

func parseAddress(text string) (string, error) {
	if _, port, err := net.SplitHostPort(text); (err != nil || port == "") && text != "" {
		return "", fmt.Errorf("expected an address such as :16775, got %q", text)
	}
	return text, nil
}

func parsePath(text string) (string, error) {
	reserved := text == "/" || strings.HasPrefix(text, "/-/") || text == scrape.ProbePath || text == scrape.DiscoveryPath
	if !strings.HasPrefix(text, "/") || path.Clean(text) != text || reserved || strings.ContainsAny(text, "{} \t") {
		return "", fmt.Errorf("expected a path such as /metrics, got %q", text)
	}
	return text, nil
}

// parseTraceURL requires {id} behind the host, so that an id cannot change the host.
func parseTraceURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(strings.ReplaceAll(text, "{id}", "id"))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
		!strings.Contains(text, "{id}") || !strings.HasPrefix(text, u.Scheme+"://"+u.Host+"/") {
		return "", errors.New("expected an http or https URL with {id} behind the host, such as https://platform.opper.ai/traces/{id}")
	}
	return text, nil
}

func parseEnum(values ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(values, text) {
			return "", fmt.Errorf("expected one of %s, got %q", strings.Join(values, ", "), text)
		}
		return text, nil
	}
}

// parseStatuses returns the statuses in some lists with commas between.
func parseStatuses(lists []string) []string {
	var out []string
	for _, list := range lists {
		for status := range strings.SplitSeq(list, ",") {
			if status = strings.ToLower(strings.TrimSpace(status)); status != "" {
				out = append(out, status)
			}
		}
	}
	return out
}
