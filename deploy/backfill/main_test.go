package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

const testKey = "op-test-KEY-51c7e0"

// bench is an Opper in memory, and the program's arguments to read it.
type bench struct {
	t      *testing.T
	opper  *oppertest.Server
	url    string
	output string
}

func newBench(t *testing.T, traces, names int, over time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, opper: oppertest.New(oppertest.Config{Key: testKey, NoRecord: true}), output: filepath.Join(t.TempDir(), "history")}
	if traces > 0 {
		now := time.Now()
		b.opper.FillHistory(traces, names, now.Add(-over), now.Add(-time.Minute))
	}
	server := httptest.NewServer(b.opper)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

// run runs the program with arguments that replace or follow those that it needs.
func (b *bench) run(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, errors bytes.Buffer
	all := append([]string{"--opper.url=" + b.url, "--opper.max-requests-per-second=0", "--output=" + b.output}, args...)
	status = run(ctx, all, func(name string) string { return map[string]string{"OPPER_API_KEY": testKey}[name] }, &out, &errors)
	return status, out.String(), errors.String()
}

var required = []string{"--label=job=opper", "--label=instance=exporter:16773", "--retention=31d"}

func TestWritesBlocks(t *testing.T) {
	b := newBench(t, 20_000, 20, 30*24*time.Hour)
	status, out, errs := b.run(t.Context(), required...)
	t.Log(out, errs)
	if status != 0 {
		t.Fatal(status)
	}
	entries, _ := os.ReadDir(b.output)
	for _, e := range entries {
		t.Log(e.Name())
	}
	if !strings.Contains(out, "wrote") {
		t.Error()
	}
}
