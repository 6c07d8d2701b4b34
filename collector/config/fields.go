package config

import (
	"errors"
	"regexp"
)

// Flags whose fields in --config.file have names or types of their own.
const (
	nameFlag       = "opper.project"
	keyFileFlag    = "opper.api-key-file"
	httpClientFlag = "opper.http-config-file"
	headerFlag     = "opper.header"
	keyVariable    = "api_key_env" // a field, which no flag stands for
)

// Field is a field of a project in the file of --config.file. It sets what a flag
// sets, and takes what the flag takes.
type Field struct{ Name, Flag string }

// Fields are all fields of a project.
var Fields = []Field{
	{"name", nameFlag},
	{"api_key_file", keyFileFlag},
	{keyVariable, keyVariable},
	{"url", "opper.url"},
	{"headers", headerFlag},
	{"http_client", httpClientFlag},
	{"name_filter", "opper.name-filter"},
	{"timeout", "opper.timeout"},
	{"concurrency", "opper.concurrency"},
	{"max_requests_per_second", "opper.max-requests-per-second"},
	{"interval", "collector.interval"},
	{"sweep_interval", "collector.sweep-interval"},
	{"initial_lookback", "collector.initial-lookback"},
	{"settle_delay", "collector.settle-delay"},
	{"abandon_after", "collector.abandon-after"},
	{"success_status", "collector.success-status"},
	{"failure_status", "collector.failure-status"},
	{"trace_name_include", "collector.trace-name-include"},
	{"trace_name_exclude", "collector.trace-name-exclude"},
	{"trace_name_rewrites", "collector.trace-name-rewrite"},
	{"max_trace_names", "collector.max-trace-names"},
	{"trace_name_expiry", "collector.trace-name-expiry"},
	{"usage_interval", "collector.usage-interval"},
}

func (f Field) isPath() bool { return f.Flag == keyFileFlag || f.Flag == httpClientFlag }

var variable = regexp.MustCompile(`^[A-Za-z_]\w*$`)

// parseVariable repeats no value: it may be the key itself.
func parseVariable(text string) ([]string, error) {
	if !variable.MatchString(text) {
		return nil, errors.New("expected the name of an environment variable")
	}
	return []string{text}, nil
}
