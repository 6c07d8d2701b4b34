package scrape

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
)

// Each scraper is waited for, also one that has the same address, or is away for a
// while; not one that has been silent for long.
func TestAllScrapersAreAwaited(t *testing.T) {
	p := newPage(t, false)
	a, b := p.scraper(), p.scraper()
	for range 3 {
		p.scrape(t, a)
		p.scrape(t, b)
	}
	since := p.now()
	for range 3 {
		p.scrape(t, a)
	}
	if p.scrapers.AllRead("", since) {
		t.Error("read, but only by one of two")
	}
	p.leave(t, b) // and comes back
	if p.scrapers.AllRead("", since) {
		t.Error("read while one of two is away")
	}
	p.scrape(t, b)
	if p.scrapers.AllRead("", since) {
		t.Error("read by coming back")
	}
	p.scrape(t, b)
	if !p.scrapers.AllRead("", since) {
		t.Error("not read by both")
	}

	for range 2 { // over an open connection, and a closed one
		since = p.now()
		p.step(scraperExpiry + time.Second)
		p.scrape(t, a)
		p.scrape(t, a)
		if !p.scrapers.AllRead("", since) {
			t.Error("a scraper that is silent for long is waited for")
		}
		p.scrape(t, b)
		p.scrape(t, b)
		p.leave(t, b)
	}
	p.step(scraperExpiry + time.Second)
	p.scrape(t, a)
	p.leave(t, a)
	if n := len(p.scrapers.closed); n != 1 {
		t.Errorf("%d scrapers are remembered that have left", n)
	}
}

// Zeros do not wait for a client that has not read before: any client can send
// one request.
func TestNewClientsAreNotAwaited(t *testing.T) {
	p := newPage(t, false)
	a := p.scraper()
	p.scrape(t, a)
	p.scrape(t, a)
	since := p.now()
	for i := range 5 {
		c := p.scraper()
		p.scrape(t, c, func(r *http.Request) { r.Header.Set("User-Agent", strings.Repeat(fmt.Sprint(i), 1000)) })
		if i%2 == 0 {
			p.leave(t, c)
		}
		hangUp(t, p.raw(t))
		p.raw(t)
		p.scrape(t, p.scraper(), func(r *http.Request) {
			r.Close = true
			r.Header.Set("User-Agent", fmt.Sprint(i))
		})
	}
	if p.scrapers.AllRead("", since) {
		t.Error("read by those that have not read before")
	}
	p.scrape(t, a)
	p.scrape(t, a)
	if !p.scrapers.AllRead("", since) {
		t.Error("new clients are waited for")
	}
	p.scrapers.mu.Lock()
	defer p.scrapers.mu.Unlock()
	for rd := range p.scrapers.all() {
		if len(rd.agent) > maxAgent {
			t.Errorf("%d bytes of an agent are remembered", len(rd.agent))
		}
	}
}

// A scraper that reconnects is still a scraper, however many other clients have
// connected in between.
func TestScraperIsNotForgotten(t *testing.T) {
	p := newPage(t, false)
	a, b := p.scraper(), p.scraper()
	name := func(r *http.Request) { r.Header.Set("User-Agent", "away") }
	for range 2 {
		p.scrape(t, a)
		p.scrape(t, b, name)
	}
	p.leave(t, b)
	since := p.now()
	for i := range 3 * maxScrapers {
		p.scrape(t, p.scraper(), func(r *http.Request) {
			r.Close = true
			r.Header.Set("User-Agent", fmt.Sprint(i))
		})
	}
	p.awaitOpen(t, 1)
	p.scrapers.mu.Lock()
	if n := len(p.scrapers.closed); n > maxScrapers {
		t.Errorf("%d clients are remembered that have left", n)
	}
	p.scrapers.mu.Unlock()
	p.scrape(t, a)
	p.scrape(t, a)
	if p.scrapers.AllRead("", since) {
		t.Error("a scraper is forgotten because many others came")
	}
	p.scrape(t, b, name)
	p.scrape(t, b, name)
	if !p.scrapers.AllRead("", since) {
		t.Error("not read by both")
	}
}

// connection returns what scrapes over a connection of its own. An http.Client makes
// another one if it was busy for 50 ms, and that is another scraper.
func (p *page) connection(t *testing.T) (scrape func()) {
	t.Helper()
	conn := exportertest.Dial(t, p.Listener.Addr().String(), "")
	answers := bufio.NewReader(conn)
	return func() {
		t.Helper()
		p.step(time.Millisecond)
		if _, err := io.WriteString(conn, exportertest.Request("GET", "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 10")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
}

// The number of scrapers that zeros wait for is bounded, and none displaces
// another.
func TestScrapersAreBounded(t *testing.T) {
	p := newPage(t, false)
	var all []func()
	for range maxScrapers {
		scrape := p.connection(t)
		scrape()
		scrape()
		all = append(all, scrape)
	}
	since, late := p.now(), p.connection(t)
	for range 3 {
		late()
	}
	for i, scrape := range all {
		if p.scrapers.AllRead("", since) {
			t.Errorf("read, but only by %d of %d", i, len(all))
		}
		scrape()
		scrape()
	}
	if !p.scrapers.AllRead("", since) {
		t.Error("not read by all")
	}
	since = p.now()
	for _, scrape := range all {
		scrape()
		scrape()
	}
	if !p.scrapers.AllRead("", since) {
		t.Error("one too many is waited for")
	}
	p.step(scraperExpiry + time.Second)
	late()
	since = p.now()
	late()
	late()
	if !p.scrapers.AllRead("", since) {
		t.Error("there is room, and it has read")
	}
}

// A scrape that times out comes over another connection, maybe before it is known that the
// one before is closed: that one is not waited for.
func TestScraperThatComesBackBeforeItHasLeft(t *testing.T) {
	for _, again := range []int{1, 3} {
		p := newPage(t, false)
		before, after := p.scraper(), p.scraper()
		p.scrape(t, before)
		p.scrape(t, before)
		for range again {
			p.scrape(t, after)
		}
		p.leave(t, before)
		since := p.now()
		p.scrape(t, after)
		if p.scrapers.AllRead(allProjects, since) {
			t.Error("read before it has scraped again")
		}
		p.scrape(t, after)
		if !p.scrapers.AllRead(allProjects, since) {
			t.Errorf("after %d scrapes over another connection, the one before is waited for", again)
		}
	}
}
