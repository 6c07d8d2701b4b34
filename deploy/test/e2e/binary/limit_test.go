package binary_test

import (
	"testing"

	"opper_exporter/opper/oppertest"
)

// The flag reaches the requests.
func TestLimitOfAllProjects(t *testing.T) {
	t.Parallel()
	_, url := fakeOpper(t, oppertest.Config{}, 30)
	const waited = "opper_exporter_api_limit_wait_seconds_total"
	limited := startReady(t, url, "--opper.max-requests-per-second-total=20")
	await(t, "requests wait for the limit", func() bool { return limited.scrape().sum(waited) > 0.5 })
}
