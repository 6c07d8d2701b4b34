package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/backfill/plan"
)

// The history ends before the first sample of the live series, and before the head of the
// server, and needs no more retention than the server has.
func TestHistoryEndsForTheServer(t *testing.T) {
	now := time.Now()
	first, head := now.Add(-9*time.Hour).Truncate(time.Minute), now.Add(-7*time.Hour).Truncate(time.Second)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var data string
		switch r.URL.Path {
		case "/api/v1/status/runtimeinfo":
			data = `{"storageRetention":"33d"}`
		case "/api/v1/status/tsdb":
			data = fmt.Sprintf(`{"headStats":{"minTime":%d}}`, head.UnixMilli())
		default:
			data = fmt.Sprintf(`{"resultType":"matrix","result":[{"metric":{"project":"default","job":"opper"},"values":[[%d,"1"]]}]}`, first.Unix())
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"status":"success","data":%s}`, data) // the client notices a cut answer
	}))
	defer server.Close()
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := &options{Validated: &config.Validated{Projects: []config.Project{{Name: "default", SettleDelay: time.Minute}}}, FromServer: address}
	firsts, ends, err := lookAtServer(t.Context(), o, log.NewNopLogger())
	if err != nil || len(firsts) != 1 || o.Retention != 33*day {
		t.Fatal(firsts, o.Retention, err)
	}
	found := map[string]time.Time{}
	for _, end := range ends {
		found[end.What] = end.At
	}
	for _, want := range []plan.End{
		{At: head, What: "the head of the server"},
		{At: first.Add(-lateness - time.Minute), What: "the first sample of project default on the server, less 16m0s"},
	} {
		if !found[want.What].Equal(want.At) {
			t.Errorf("%s is not %s in %v", want.What, want.At, ends)
		}
	}
}

// No disk has room for this.
func TestDiskWithoutRoom(t *testing.T) {
	b := newBench(t, 300, 29*day)
	var buckets []string
	for i := range 250 {
		buckets = append(buckets, fmt.Sprint(i+1))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs bytes.Buffer
	status := run(ctx, []string{
		"--opper.url=" + b.url, "--opper.max-requests-per-second=0", "--output=" + b.output, "--label=job=opper", "--label=instance=exporter:16773",
		"--format=openmetrics", "--step=1s", "--retention=0s", "--collector.duration-buckets=" + strings.Join(buckets, ","), "--collector.token-buckets=" + strings.Join(buckets, ","),
	}, func(string) string { return testKey }, printed(cancel), &errs)
	if status != 1 || !strings.Contains(errs.String(), program+": error: --output: "+b.output+" has room for ") {
		t.Errorf("exit status %d:\n%s", status, &errs)
	}
}

// printed is called when something is printed. After the plan, nothing is written any more.
type printed func()

func (p printed) Write(text []byte) (int, error) {
	p()
	return len(text), nil
}
