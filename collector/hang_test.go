package collector

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/config"
	"opper_exporter/collector/scrape"
	"opper_exporter/collector/statuspage"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper"
)

// hangingStore is a Store of several projects. The commits of one hang, after some.
type hangingStore struct {
	hangs   string
	after   int
	release chan struct{}

	mu       sync.Mutex
	projects map[string]*storetest.Memory
}

func (s *hangingStore) of(project string) *storetest.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.projects[project] == nil {
		s.projects[project] = new(storetest.Memory)
	}
	return s.projects[project]
}

// Load implements Store.
func (s *hangingStore) Load(project string, visit func(string, []byte) error) (bool, error) {
	return s.of(project).Load(project, visit)
}

// Projects implements Store.
func (*hangingStore) Projects() ([]string, error) { return nil, nil }

// Commit implements Store.
func (s *hangingStore) Commit(project string, changes map[string][]byte, fresh bool) error {
	if project == s.hangs {
		if s.after--; s.after < 0 {
			<-s.release
		}
	}
	return s.of(project).Commit(project, changes, fresh)
}

// While a commit hangs, as on a disk that does not answer, scrapes are served, other
// projects sync, and opper_up and one log line tell of it. Run ends when it does.
func TestCommitHangs(t *testing.T) {
	for name, after := range map[string]int{"the first": 0, "a later one": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hung, other = "calm-hung", "calm-other"
				store := &hangingStore{hangs: hung, after: after, release: make(chan struct{}), projects: map[string]*storetest.Memory{}}
				var logged strings.Builder
				o := &organization{heads: map[string][]time.Time{}, requests: map[string]int{}}
				var projects []config.Project
				for _, name := range []string{hung, other} {
					cfg := testConfig().Project
					cfg.Name, cfg.Interval = name, 10*time.Second
					key, err := opper.FixedKey(name)
					if err != nil {
						t.Fatal(err)
					}
					cfg.Opper = opper.Options{URL: "https://opper.example", Key: key, Transport: opper.Transport{
						Build: func(func(*tls.Config) (http.RoundTripper, error)) (http.RoundTripper, error) { return o, nil },
					}}
					projects = append(projects, cfg)
				}
				clock := NewClock()
				scrapers := scrape.NewScrapers(clock.Now)
				c, err := New(projects, Deps{
					Logger: log.NewSyncLogger(log.NewLogfmtLogger(&logged)), Clock: clock, Store: store, AllRead: scrapers.AllRead,
				})
				if err != nil {
					t.Fatal(err)
				}
				handler := scrape.NewHandler(scrape.Config{Config: statuspage.Config{TelemetryPath: "/metrics"}}, c, scrapers, prometheus.NewRegistry(), nil, nil, log.NewNopLogger())
				get := func(path string) (int, string) {
					answer := httptest.NewRecorder()
					handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
					return answer.Code, answer.Body.String()
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- c.Run(ctx) }()
				<-time.After(10 * time.Minute)
				synctest.Wait()

				status, body := get("/metrics")
				if status != http.StatusOK {
					t.Errorf("/metrics answers %d", status)
				}
				for series, want := range map[string]bool{
					`opper_up{project="calm-hung"} 0`:                         true,
					`opper_up{project="calm-other"} 1`:                        true,
					`opper_traces_listed{project="calm-hung"} 30`:             after > 0,
					`opper_traces_listed{project="calm-other"} 30`:            true,
					`opper_traces_total{outcome="success",project="calm-hung`: after > 0,
				} {
					if strings.Contains(body, series) != want {
						t.Errorf("/metrics has %s: %t", series, !want)
					}
				}
				if last := o.heads[other][len(o.heads[other])-1]; time.Since(last) > time.Minute {
					t.Errorf("the last sync of the other project began %v ago", time.Since(last))
				}
				for _, path := range []string{"/-/ready", "/-/ready?target=calm-hung", "/-/healthy", "/"} {
					if status, body := get(path); status != http.StatusOK {
						t.Errorf("%s answers %d: %s", path, status, body)
					}
				}
				const line = `level=error project=calm-hung msg="commit blocked by the disk" waited_seconds=60`
				if n := strings.Count(logged.String(), line); n != 1 {
					t.Errorf("%d lines tell of the commit that hangs: %s", n, logged.String())
				}

				cancel()
				<-time.After(time.Minute)
				select {
				case err := <-ended:
					t.Errorf("Run ended before the commit: %v", err)
				default:
				}
				close(store.release)
				if err := <-ended; err != nil {
					t.Errorf("Run ends with %v", err)
				}
				if !strings.Contains(logged.String(), `msg="blocked commit complete" duration_seconds=6`) {
					t.Errorf("no line tells that the commit ended: %s", logged.String())
				}
				if _, body := get("/metrics"); !strings.Contains(body, `opper_traces_listed{project="calm-hung"} 30`) {
					t.Error("what was committed at last is not exposed")
				}
			})
		})
	}
}
