package grafana_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// choice is what a user has chosen of each variable: nil is All.
type choice map[string][]string

// fill replaces the variables in a text as Grafana does in expressions:
// its own, such as $__range, come last.
func (d *dashboard) fill(text string, chosen choice, builtins map[string]string) (string, error) {
	var err error
	filled := variableUse.ReplaceAllStringFunc(text, func(use string) string {
		match := variableUse.FindStringSubmatch(use)
		v := d.variable(match[1] + match[2])
		if v == nil {
			return use
		}
		values, ok := chosen[v.Name]
		if !ok || values == nil && v.AllValue == "" {
			err = fmt.Errorf("no value for %s", use)
			return use
		}
		if values == nil {
			return v.AllValue
		}
		_, format, _ := strings.Cut(strings.Trim(use, "${}"), ":")
		return v.format(values, format)
	})
	for name, value := range builtins {
		filled = regexp.MustCompile(`\$`+name+`\b`).ReplaceAllLiteralString(filled, value)
	}
	if err == nil && strings.Contains(filled, "$_") {
		err = fmt.Errorf("what is left is no variable of Grafana: %s", filled)
	}
	return filled, err
}

var (
	regexFormat   = regexp.MustCompile(`[\\^$*+?.()|[\]{}/]`)
	defaultFormat = regexp.MustCompile(`[$^*{}\[\]+?.()|]`)
)

// format writes values as Grafana does with ${name:format}, or, without a
// format, as its Prometheus data source does.
func (v *variable) format(values []string, format string) string {
	if format != "regex" && !v.Multi && !v.IncludeAll {
		return strings.ReplaceAll(strings.ReplaceAll(values[0], `\`, `\\`), `'`, `\\'`)
	}
	var escaped []string
	for _, value := range values {
		if format == "regex" {
			value = regexFormat.ReplaceAllString(value, `\$0`)
		} else {
			value = defaultFormat.ReplaceAllString(strings.ReplaceAll(value, `\`, `\\\\`), `\\$0`)
		}
		escaped = append(escaped, value)
	}
	if len(escaped) == 1 {
		return escaped[0]
	}
	return "(" + strings.Join(escaped, "|") + ")"
}

func TestFill(t *testing.T) {
	d := &dashboard{}
	d.Templating.List = []*variable{
		{Name: "all", Multi: true, IncludeAll: true, AllValue: ".+"},
		{Name: "one"},
		{Name: "window"},
	}
	chosen := choice{"all": nil, "one": {`it's (a\b)`}, "window": {"$__rate_interval"}}
	for _, test := range []struct {
		text, want string
		all        []string
	}{
		{"x{a=~`${all:regex}`}", "x{a=~`.+`}", nil},
		{"x{a=~`${all:regex}`}", "x{a=~`a\\.b`}", []string{"a.b"}},
		{"x{a=~`${all:regex}`}", "x{a=~`(a\\.b|c)`}", []string{"a.b", "c"}},
		{`x{a=~"$all"}`, `x{a=~"(a\\.b|c\\\\d)"}`, []string{"a.b", `c\d`}},
		{`x{a="$one"}`, `x{a="it\\'s (a\\b)"}`, nil},
		{"rate(x[$window]) + ${window}", "rate(x[4s]) + 4s", nil},
		{"$__range $__range_s", "1h $__range_s", nil},
	} {
		chosen["all"] = test.all
		got, err := d.fill(test.text, chosen, map[string]string{"__rate_interval": "4s", "__range": "1h"})
		if got != test.want {
			t.Errorf("%s became %s, not %s", test.text, got, test.want)
		}
		if (err != nil) != strings.Contains(got, "$") {
			t.Errorf("%s: %v", got, err)
		}
	}
}
