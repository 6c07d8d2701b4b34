package scrape

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// of makes a scrape one of a project.
func of(project string) func(*http.Request) {
	return func(r *http.Request) { r.URL.RawQuery = "target=" + project }
}

func (p *page) check(t *testing.T, what, project string, since time.Time, want bool) {
	t.Helper()
	if got := p.scrapers.AllRead(project, since); got != want {
		t.Errorf("%s: %q is read: %v", what, project, got)
	}
}

// On a connection that Prometheus uses for several targets, the next request is
// evidence whatever its target, unless requests may overlap.
func TestNextTargetOfTheConnectionIsEvidence(t *testing.T) {
	closing := func(r *http.Request) { r.Close = true }
	for what, c := range map[string]struct {
		secure, want bool
		change       func(*http.Request)
	}{
		"HTTP/1":      {want: true, change: func(*http.Request) {}},
		"HTTP/2":      {secure: true, change: func(*http.Request) {}},
		"connections": {change: closing},
	} {
		p := newPage(t, c.secure)
		since, client := p.now(), p.scraper()
		p.scrape(t, client, of("a"), c.change)
		p.check(t, what, "a", since, false)
		p.scrape(t, client, of("b"), c.change)
		p.check(t, what+", another target", "a", since, c.want)
		p.check(t, what+", another target", "b", since, false)
		p.scrape(t, client, of("a"), c.change)
		p.check(t, what+", the same target", "a", since, true)
		p.check(t, what+", the last request but one", "b", since, c.want)
		p.check(t, what+", nobody scrapes it", "c", since, false)
	}
}

// A project is read alone or with all others, and each scraper of either kind is
// waited for; those of other projects are not.
func TestProjectIsReadOnEitherPath(t *testing.T) {
	p := newPage(t, false)
	alone, together, other := p.scraper(), p.scraper(), p.scraper()
	twice := func(c *http.Client, project string) {
		p.scrape(t, c, of(project))
		p.scrape(t, c, of(project))
	}
	since := p.now()
	twice(together, allProjects)
	p.check(t, "together", "a", since, true)
	p.check(t, "together", "b", since, true)
	since = p.now()
	twice(other, "b")
	twice(alone, "a")
	p.check(t, "alone", "a", since, false)
	twice(together, allProjects)
	p.check(t, "alone and together", "a", since, true)
	since = p.now()
	twice(together, allProjects)
	p.check(t, "together", "a", since, false)
	twice(alone, "a")
	p.check(t, "together and alone", "a", since, true)
	p.check(t, "together only", "b", since, false)
}

// In a pool, a target may come over another connection each time. Another server may
// use each of them, so it is waited for until it has scraped again, or expires.
func TestConnectionsOfAPoolAreAwaited(t *testing.T) {
	p := newPage(t, false)
	first, second := p.scraper(), p.scraper()
	p.scrape(t, first, of("a"))
	p.scrape(t, first, of("b"))
	last := p.now()
	p.scrape(t, first, of("a"))
	p.scrape(t, first, of("b"))
	since := p.now()
	for range 4 {
		p.step(time.Minute)
		p.scrape(t, second, of("a"))
		p.scrape(t, second, of("b"))
		p.scrape(t, first, of("b"))
		p.check(t, "another connection", "a", since, false)
	}
	p.check(t, "both connections", "b", since, true)
	p.step(scraperExpiry - p.now().Sub(last) - time.Second)
	p.check(t, "before the first expires", "a", since, false)
	p.step(3 * time.Second)
	p.check(t, "the first has expired for this target, not for others", "a", since, true)
	if !p.now().Before(since.Add(scraperExpiry + time.Minute)) {
		t.Errorf("the pool delays counts by %v", p.now().Sub(since))
	}
}

// The first scrape of a target over a connection is waited for if a scraper uses it:
// the target has come over another one until then.
func TestConnectionOfAScraperIsAwaitedFromTheFirstScrape(t *testing.T) {
	p := newPage(t, false)
	first, second := p.scraper(), p.scraper()
	for range 2 {
		p.scrape(t, first, of("a"))
		p.scrape(t, second, of("b"))
	}
	p.scrape(t, second, of("a"))
	since := p.now()
	p.scrape(t, first, of("a"))
	p.scrape(t, first, of("a"))
	p.check(t, "one connection", "a", since, false)
	p.scrape(t, second, of("a"))
	p.scrape(t, second, of("b"))
	p.check(t, "both connections", "a", since, true)
}

// What is remembered of projects that are gone does not add up.
func TestRemovedProjectsAreForgotten(t *testing.T) {
	p := newPage(t, false)
	c := p.scraper()
	for i := range 20 {
		for range 2 {
			p.scrape(t, c, of("stays"))
			p.scrape(t, c, of(fmt.Sprint(i)))
		}
		p.step(time.Minute)
	}
	p.scrapers.mu.Lock()
	defer p.scrapers.mu.Unlock()
	for s := range p.scrapers.all() {
		if n := len(s.scrapes); n > 8 || s.scrapes["stays"] == nil || s.scrapes["19"] == nil {
			t.Errorf("%d projects are remembered of 20 that came and went", n)
		}
	}
}
