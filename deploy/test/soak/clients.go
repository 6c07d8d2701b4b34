package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
)

// hostileClients are beside the scraper for a while. They take their own
// failures as they come.
func (c *conductor) hostileClients(ctx context.Context, rng *rand.Rand, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, min(max(c.between(rng, 30*time.Second, 3*time.Minute), 5*time.Second), most))
	defer cancel()
	defer c.begin("hostile clients", harmless)()
	var going sync.WaitGroup
	for _, client := range clients {
		for range client.each {
			going.Go(func() {
				for ctx.Err() == nil {
					c.connect(ctx, client.do)
					sleep(ctx, 100*time.Millisecond)
				}
			})
		}
	}
	going.Wait()
}

// connect lets a client have a connection of its own until ctx ends.
func (c *conductor) connect(ctx context.Context, client func(context.Context, net.Conn)) {
	address := c.exporter.view().address
	if address == "" {
		return
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close() // perhaps it is closed already
	}()
	client(ctx, conn)
}

// send writes a request; it reports whether that went well.
func send(conn net.Conn, lines ...string) bool {
	_, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n")
	return err == nil
}

const (
	getMetrics = "GET /metrics HTTP/1.1\r\nHost: exporter"
	scrapeFor  = "X-Prometheus-Scrape-Timeout-Seconds: "
)

// hold keeps a connection as it is until the other side closes it, for a while
// at most.
func hold(conn net.Conn, most time.Duration) {
	_ = conn.SetReadDeadline(time.Now().Add(most)) // the read below tells
	_, _ = io.Copy(io.Discard, conn)
}

// clients are the kinds of hostile ones, and how many there are of each at once.
// Those that are being answered are fewer than --web.max-requests.
var clients = []struct {
	each int
	do   func(context.Context, net.Conn)
}{
	// A body that never comes.
	{45, func(_ context.Context, conn net.Conn) {
		send(conn, getMetrics, "Content-Length: 1000000")
		hold(conn, time.Minute)
	}},
	// Headers that never end.
	{6, func(ctx context.Context, conn net.Conn) {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := fmt.Fprintf(conn, "%s\r\nX-%d: x", getMetrics[:min(i, 1)*len(getMetrics)], i); err != nil {
				return
			}
			sleep(ctx, time.Second)
		}
	}},
	// An answer that is never read.
	{10, func(ctx context.Context, conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(1024) // only makes it worse
		}
		for range 50 {
			if !send(conn, getMetrics) {
				return
			}
		}
		sleep(ctx, time.Minute)
	}},
	// An answer that is read slowly.
	{10, func(ctx context.Context, conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(1024)
		}
		send(conn, getMetrics, "Accept: application/openmetrics-text")
		for buf := make([]byte, 16); ctx.Err() == nil; sleep(ctx, 20*time.Millisecond) {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	}},
	// A scraper that hangs up.
	{6, func(_ context.Context, conn net.Conn) { send(conn, getMetrics, scrapeFor+"3599") }},
	// A connection that does nothing.
	{20, func(_ context.Context, conn net.Conn) { hold(conn, time.Minute) }},
	// Other methods, and what is no HTTP.
	{6, func(_ context.Context, conn net.Conn) {
		for _, text := range []string{
			"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "DELETE / HTTP/1.1\r\nHost: x", "TRACE /metrics HTTP/1.1\r\nHost: x",
			"GET /metrics?name[]=go_goroutines&name[]=%ff HTTP/1.1\r\nHost: x", "GET /../../etc/passwd HTTP/1.1\r\nHost: x", "\x16\x03\x01\x00\xa5",
		} {
			if !send(conn, text) {
				return
			}
		}
		hold(conn, 2*time.Second)
	}},
	// Headers as large as may be.
	{6, func(_ context.Context, conn net.Conn) {
		send(conn, getMetrics, "User-Agent: "+strings.Repeat("x", 900_000), scrapeFor+"10")
		hold(conn, 10*time.Second)
	}},
	// A browser, which is not hostile.
	{3, func(ctx context.Context, conn net.Conn) {
		for r := bufio.NewReader(conn); ctx.Err() == nil; sleep(ctx, time.Duration(rand.Int64N(int64(time.Second)))) {
			if !send(conn, "GET / HTTP/1.1\r\nHost: x") {
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := r.ReadString('>'); err != nil {
				return
			}
		}
	}},
}
