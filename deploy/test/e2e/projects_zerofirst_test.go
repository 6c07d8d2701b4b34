package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

var sharedConnections = flag.Bool("shared-connections", false, "let TestFirstIncrementIsNotLostByDiscovery scrape over plain HTTP too, which takes five minutes")

// The targets of a job share connections. The first counts of a new name of one
// project are not lost to any job nevertheless, and those of TLS do not wait for
// connections.
func TestFirstIncrementIsNotLostByDiscovery(t *testing.T) {
	t.Parallel()
	names := []string{"TLS"}
	if *sharedConnections {
		names = append(names, "shared connections")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			firstCountsByDiscovery(t, name == "TLS")
		})
	}
}

func firstCountsByDiscovery(t *testing.T, secure bool) {
	t.Helper()
	projects := 20
	if secure {
		projects = 12 // a busy server opens a second connection for more than 16 scrapes at once
	}
	var names []string
	for i := range projects {
		names = append(names, fmt.Sprintf("project-%02d", i))
	}
	args, url, more := []string{"--collector.interval=500ms"}, "http://", ""
	if secure {
		path, _ := exportertest.WebConfig(t, "")
		args, url, more = append(args, "--web.config.file="+path), "https://", "tls_config: {insecure_skip_verify: true}, "
	}
	o := newOrganization(t, len(names), names, args...)
	process := exportertest.MustStart(t, o.command())
	process.AwaitListening(t)
	// The counts that the quick one reads are not lost to the slow one.
	jobs := map[string]string{"quick": "500ms, honor_labels: true", "slow": "5s"}
	yaml := "scrape_configs:\n"
	for job, settings := range jobs {
		yaml += fmt.Sprintf("- {job_name: %s, scrape_timeout: 500ms, scrape_interval: %s, %shttp_sd_configs: [{%[3]surl: %q, refresh_interval: 1s}]}\n", job, settings, more, url+o.address+"/sd")
	}
	server := promtest.Start(t, promtest.Config{YAML: yaml})
	gives := func(want float64, promql string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		if err := process.Await(ctx, func() error {
			got, err := values(ctx, server, promql)
			if err == nil && got[""] != want {
				err = fmt.Errorf("%v", got)
			}
			return err
		}); err != nil {
			t.Fatalf("%s is not %v: %v", promql, want, err)
		}
	}
	for job := range jobs {
		gives(float64(len(names)), fmt.Sprintf(`count(count by (project) (opper_up{job=%q} == 1))`, job))
		server.WaitScrapes(t, job, 2)
	}

	// Names of all projects at once, so that each is as it may be with one.
	for _, project := range names {
		o.add(project, many(3, "new", "success", time.Now())...)
		o.add(project, many(1, "new", "error", time.Now())...)
	}
	began := time.Now()
	for job := range jobs {
		gives(float64(4*len(names)), fmt.Sprintf(`sum(opper_traces_total{job=%q,trace_name="new"})`, job))
		t.Logf("all counts are in the job %s after %v", job, time.Since(began))
		failures := fmt.Sprintf(`opper_traces_total{job=%q,trace_name="new",outcome="failure"}`, job)
		series, err := server.Samples(t.Context(), failures, window)
		if err != nil || len(series) != len(names) {
			t.Fatalf("%d series of %s, %v", len(series), failures, err)
		}
		for _, s := range series {
			if s.Values[0].Value != 0 {
				t.Errorf("%v begins at %v", s.Metric, s.Values[0].Value)
			}
		}
		lost, err := values(t.Context(), server, fmt.Sprintf(`increase(%s[15m]) < 1`, failures), "project")
		if err != nil || len(lost) > 0 {
			t.Errorf("job %s does not see the first failure of %v, %v", job, lost, err)
		}
	}
	process.Stop(t)
}
