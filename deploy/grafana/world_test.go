package grafana_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

const (
	scrapeInterval = time.Second
	// awkward is a name with all that has to be escaped somewhere.
	awkward = `it's a "test" (a|b).c\d/e $f`
	// quiet has a past, and no traces now.
	quiet = "quiet"
)

// TestDashboardsAndRulesTellTheTruth asks a real server that scrapes a real exporter everything that the
// dashboards and the rules ask.
func TestMain(m *testing.M) { exportertest.Main(m) }

// scrape returns the families that the exporter exposes.
func scrape(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := exportertest.Families(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// newOpper runs an Opper with the traffic of the demo, somewhat livelier, and
// some agents more. Its Opper project has a limit.
func newOpper(t *testing.T, project string) *oppertest.Server {
	t.Helper()
	usage := oppertest.NewUsage(oppertest.UsageConfig{})
	usage.SetBudget(project, oppertest.Budget{LimitCents: new(int64(1_000_000))})
	opper := oppertest.New(oppertest.Config{NoRecord: true, Usage: usage, Project: project})
	agents := append(oppertest.DefaultAgents(), oppertest.Agent{
		Name: awkward, Rate: 1, Median: time.Second, Spread: 0.5, Failure: 0.3, Tokens: 500, Model: oppertest.Model{Name: awkward, Input: 1000, Output: 5000},
	})
	for i := range agents {
		agents[i].Rate *= 3
	}
	traffic := oppertest.NewTraffic(opper, agents, 1)
	now := time.Now()
	traffic.Backfill(now.Add(-time.Hour), now)
	begin, end := now.Add(-time.Hour), now.Add(-time.Hour+time.Second)
	for _, status := range []string{"success", "cancelled"} {
		opper.Add(oppertest.Trace{ID: "quiet " + status, Name: new(quiet), Status: new(status), Start: &begin, End: &end, Tokens: new(int64(100))})
	}
	ctx := t.Context()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				traffic.Step(now)
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return opper
}

// startExporter runs the exporter, and returns it with its address when the
// initial sync is published. The demo has more models than the maximum.
func startExporter(t *testing.T, opper http.Handler) (*exportertest.Process, string) {
	t.Helper()
	server := httptest.NewServer(opper)
	t.Cleanup(server.Close)
	exporter := exportertest.MustStart(t, exportertest.Command(exportertest.Binary(t), server.URL,
		"--collector.interval=1s", "--collector.settle-delay=1s", "--collector.usage-interval=10s", "--collector.max-models=4", "--storage.path="+t.TempDir()))
	return exporter, exporter.AwaitReady(t)
}

// breakRequests makes Opper answer once with each of some errors, and waits
// until the exporter has seen them.
func breakRequests(t *testing.T, opper *oppertest.Server, address string) {
	t.Helper()
	codes := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError}
	for _, code := range codes {
		opper.Fail(oppertest.Fault{Answer: oppertest.Respond(code, "", "")})
	}
	opper.Fail(oppertest.Fault{Answer: oppertest.CutBody})
	promtest.Eventually(t, func() error {
		seen := map[string]bool{}
		for _, m := range scrape(t, address)["opper_exporter_api_requests_total"].GetMetric() {
			seen[labelOf(m, "code")] = m.GetCounter().GetValue() > 0
		}
		for _, code := range codes {
			if !seen[strconv.Itoa(code)] {
				return fmt.Errorf("no answer %d yet", code)
			}
		}
		if !seen["error"] {
			return errors.New("no request without an answer yet")
		}
		return nil
	})
}
