package config

import (
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"", "0", "0s", "30s", "1h30m", "-1s", "1.5h", "2d", "1w3d", "1y", "300y", "-1d", "1d1.5h", "9223372036854775807ns", "292y24w3d", "1e3s", "５s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDuration(text)
		positive, errPositive := parsePositiveDuration(text)
		if (errPositive == nil) != (err == nil && d > 0) || errPositive == nil && positive != d {
			t.Fatalf("%v, %v; but above 0: %v, %v", d, err, positive, errPositive)
		}
		if err != nil {
			return
		}
		if again, err := parseDuration(d.String()); d < 0 || err != nil || again != d {
			t.Fatalf("%v, written and read again: %v, %v", d, again, err)
		}
	})
}

func FuzzParseBuckets(f *testing.F) {
	for _, text := range []string{"", ",", "1", "0", "-1,1", "1,1", "2,1", "0.1, 0.5 ,1", "1e3,2e3", "NaN", "1,+Inf", "0x1p-2,1", "1_0", "1,,2", "5e-324,1.7976931348623157e308", "1\t2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		bounds, err := parseBuckets(text)
		if err != nil {
			return
		}
		texts := make([]string, len(bounds))
		for i, b := range bounds {
			if !(b > 0) || math.IsInf(b, 0) || i > 0 && b <= bounds[i-1] {
				t.Fatalf("%v", bounds)
			}
			texts[i] = strconv.FormatFloat(b, 'g', -1, 64)
		}
		if again, err := parseBuckets(strings.Join(texts, ",")); len(bounds) == 0 || err != nil || !slices.Equal(again, bounds) {
			t.Fatalf("%v, written and read again: %v, %v", bounds, again, err)
		}
	})
}

// whole reports whether a pattern matches a name as a whole, or not at all.
func whole(re *regexp.Regexp, name string) bool {
	at := re.FindStringIndex(name)
	return at == nil || at[0] == 0 && at[1] == len(name)
}

func FuzzParseRegexp(f *testing.F) {
	for _, text := range []string{"", "a", "a|b", "a)|(b", "^a$", "(?m)^a$", "(?i)A.c", `\Qa\E`, `\Qa`, "[", "(?P<n>a)", "a{1001}", `a\z`, `x*\`, "(?s).", "\xff"} {
		f.Add(text, "a")
		f.Add(text, "a\nb")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		re, err := parseRegexp(text)
		if err != nil {
			return
		}
		if (re == nil) != (text == "") {
			t.Fatalf("%v", re)
		}
		if re != nil && !whole(re, name) {
			t.Fatalf("%q matches a part of %q: %q", re, name, re.FindString(name))
		}
	})
}

func FuzzParseRewrite(f *testing.F) {
	for _, text := range []string{"", "=", "a=", "=a", "a=b", `user-\d+=user`, "(a)(b)=$2$1", "(?P<n>a)=${n}", "a=$1", "(a)=$1x", "a=$", "a=$$", "a==b", "(a=b)=$1", "a=${", "a=\xff", "(=b"} {
		f.Add(text, "user-12")
		f.Add(text, "ab")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		w, err := parseRewrite(text)
		if err != nil {
			return
		}
		if !whole(w.Pattern, name) || !utf8.ValidString(w.Replacement) || !strings.HasSuffix(text, "="+w.Replacement) {
			t.Fatalf("%q", w)
		}
		// A name in UTF-8 stays in it.
		if at := w.Pattern.FindStringSubmatchIndex(name); at != nil && utf8.ValidString(name) {
			if made := w.Pattern.ExpandString(nil, w.Replacement, name, at); !utf8.Valid(made) {
				t.Fatalf("%q becomes %q", name, made)
			}
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, text := range []string{"", "/", "/metrics", "metrics", "/a/b", "/a/", "//a", "/../a", "/-/ready", "/-", "/{x}", "/a b", "/a\tb", "/%2e%2e", "/é", "/\x00", "/{$}", "/a{x...}", "/a\r\n", "/\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path, err := parsePath(text)
		if err != nil {
			return
		}
		// It must go together with the other paths: the mux panics if not.
		mux := http.NewServeMux()
		for _, pattern := range []string{path, "/-/ready", "/-/healthy", "/"} {
			mux.Handle(pattern, http.NotFoundHandler())
		}
	})
}

// FuzzFlags gives any text to each flag that has a format.
func FuzzFlags(f *testing.F) {
	names := []string{
		"opper.url", "opper.header", "opper.project", "opper.name-filter", "opper.timeout", "opper.concurrency", "opper.max-requests-per-second", "opper.max-requests-per-second-total",
		"collector.interval", "collector.sweep-interval", "collector.initial-lookback", "collector.settle-delay", "collector.abandon-after",
		"collector.success-status", "collector.failure-status", "collector.trace-name-include", "collector.trace-name-exclude", "collector.trace-name-rewrite",
		"collector.max-trace-names", "collector.trace-name-expiry", "collector.usage-interval", "collector.max-models", "collector.duration-buckets", "collector.token-buckets",
		"web.telemetry-path", "web.max-requests", "log.level", "log.format",
	}
	for i := range names {
		for _, text := range []string{"", "1", "-1", "30s", "x=y", "Name: value", "http://[::1]:1/v2", "all", "error", "/metrics", "\x00\xff", "99999999999999999999"} {
			f.Add(uint8(i), text)
		}
	}
	getenv := func(name string) string { return map[string]string{"OPPER_API_KEY": "key"}[name] }
	f.Fuzz(func(t *testing.T, i uint8, text string) {
		name := names[int(i)%len(names)]
		cfg, done, err := Parse([]string{"--" + name + "=" + text}, getenv, io.Discard)
		switch {
		case done:
			t.Fatal("done")
		case err != nil:
			if !strings.Contains(err.Error(), "--"+name) && !strings.Contains(err.Error(), "--collector.failure-status") {
				t.Fatalf("the error does not name the flag: %v", err)
			}
		case cfg.Projects[0].Interval < 0 || cfg.Projects[0].Opper.Timeout <= 0 || cfg.Projects[0].AbandonAfter <= 0 || cfg.Projects[0].SettleDelay < 0 || cfg.Projects[0].SweepPause < 0,
			cfg.Projects[0].Concurrency < 1 || cfg.Scrape.MaxRequests < 0 || cfg.Projects[0].Aggregate.MaxNames < 1 || cfg.Projects[0].MaxModels < 1,
			cfg.Projects[0].UsageInterval != 0 && cfg.Projects[0].UsageInterval < minUsageInterval,
			cfg.Projects[0].InitialLookback != nil && *cfg.Projects[0].InitialLookback < 0:
			t.Fatalf("%+v", cfg)
		}
	})
}
