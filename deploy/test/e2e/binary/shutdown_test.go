package binary_test

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"opper_exporter/opper/oppertest"
)

// A sync that hangs delays no shutdown, and a scrape that waits for it is answered.
func TestShutdownEndsWhatHangs(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]string{"interval": "25ms", "on scrape": "0s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			e := startReady(t, url, "--collector.interval="+interval)
			e.scrape()
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			if interval == "0s" {
				go func() { scraped <- scrapeText(t, e.client, e.urls[0]) }()
			}
			await(t, "a sync waits for Opper", func() bool { return server.RequestCount() > 0 })
			e.end()
			if interval == "0s" {
				if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
					t.Errorf("the scrape in flight got %.200s", text)
				}
			}
			if len(e.Log.Lines("level=error")) > 0 {
				t.Error("an error in the log")
			}
			if c, err := net.Dial("tcp", strings.TrimPrefix(e.urls[0], "http://")); err == nil {
				_ = c.Close()
				t.Error("still listening")
			}
		})
	}
}

func TestSignalsFinishScrapesInFlight(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			server, url := fakeOpper(t, oppertest.Config{}, 3)
			e := startReady(t, url, "--collector.interval=0s")
			e.scrape()
			hold(t, server)
			server.ResetRequests()
			scraped := make(chan string, 1)
			go func() { scraped <- scrapeText(t, e.client, e.urls[0]) }()
			await(t, "a scrape waits for Opper", func() bool { return server.RequestCount() > 0 })
			e.signal(sig)
			if text := <-scraped; !strings.Contains(text, "\nopper_up{") {
				t.Errorf("the scrape in flight got %.200s", text)
			}
			e.wantExit(0)
		})
	}
}
