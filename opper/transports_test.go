package opper

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEqualSettingsShareATransport(t *testing.T) {
	transports := NewTransports()
	get := func(url string, change func(*Options)) http.RoundTripper {
		f := &fixture{time: newFakeTime()}
		f.connect(t, url, func(o *Options) { o.Transports = transports }, change)
		return f.transport
	}
	none := func(*Options) {}
	first := get("https://opper.example", none)
	for name, test := range map[string]struct {
		url    string
		change func(*Options)
		same   bool
	}{
		"equal":          {"https://opper.example", none, true},
		"another host":   {"https://elsewhere.example", none, true},
		"other settings": {"https://opper.example", func(o *Options) { o.Transport.ID = "a file" }, false},
		"no ID":          {"https://opper.example", func(o *Options) { o.Transport.DisableHTTP2 = true }, false},
		"loopback only":  {"http://localhost", none, false},
		"plaintext":      {"http://localhost", func(o *Options) { o.AllowPlaintext = true }, true},
		"its own":        {"https://opper.example", func(o *Options) { o.Transports = nil }, false},
	} {
		if got := get(test.url, test.change); (got == first) != test.same {
			t.Errorf("%s: the same transport %t, want %t", name, got == first, test.same)
		}
	}
	if a, b := get("http://localhost", none), get("http://127.0.0.1", none); a != b || a.(*http.Transport).DialContext == nil {
		t.Error("what reaches this host alone is not shared")
	}
}

// Connections are closed with their last user, however often one is closed.
func TestLastClientClosesConnections(t *testing.T) {
	closed := make(chan bool, 10)
	server := httptest.NewUnstartedServer(answer(200, samplePage))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- true
		}
	}
	server.Start()
	defer server.Close()
	transports := NewTransports()
	var clients []*fixture
	for range 2 {
		f := &fixture{time: newFakeTime()}
		f.connect(t, server.URL, func(o *Options) { o.Transports = transports })
		clients = append(clients, f)
	}
	for range 3 {
		if _, err := clients[0].List(t.Context(), 0, 100); err != nil {
			t.Fatal(err)
		}
		clients[1].Close()
		if len(closed) > 0 || len(transports.made) != 1 {
			t.Fatal("a client closes the connections of another one")
		}
	}
	clients[0].Close()
	<-closed
	if len(transports.made) != 0 {
		t.Error("a transport is kept that no client uses")
	}
}

// projectsOf returns clients of a server that share their connections, each with
// its own key, and a count of the connections.
func projectsOf(t *testing.T, n int, http2 bool, handler http.HandlerFunc) (clients []*Client, connections *atomic.Int64) {
	t.Helper()
	connections = new(atomic.Int64)
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10}
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	transports := NewTransports()
	for i := range n {
		key, err := FixedKey(fmt.Sprint("key-", i))
		if err != nil {
			t.Fatal(err)
		}
		c, err := New(Options{URL: server.URL, Key: key, Transports: transports})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	shared := clients[0].transport.(*http.Transport)
	shared.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	shared.TLSClientConfig.NextProtos = nil
	t.Cleanup(shared.CloseIdleConnections)
	return clients, connections
}

func TestProjectsShareConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		clients, connections := projectsOf(t, 100, http2, func(w http.ResponseWriter, r *http.Request) {
			if (r.ProtoMajor == 2) != http2 {
				t.Errorf("got %s", r.Proto)
			}
			answer(200, samplePage)(w, r)
		})
		for _, c := range clients {
			if _, err := c.List(t.Context(), 0, 100); err != nil {
				t.Fatal(err)
			}
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("HTTP/2 %t: 100 projects made %d connections, want 1", http2, n)
		}
	}
}

// Two projects are never answered: more requests than a connection of HTTP/2 has
// streams.
func TestHungProjectBlocksNoConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		hung := make(chan bool, 1000)
		clients, _ := projectsOf(t, 3, http2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer key-2" {
				hung <- true
				<-r.Context().Done()
				return
			}
			answer(200, samplePage)(w, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		for _, c := range clients[:2] {
			for range 15 {
				ended.Go(func() { _, _ = c.List(ctx, 0, 100) })
			}
		}
		late := time.After(20 * time.Second) // the first ones time out later
		for n := range 30 {
			select {
			case <-hung:
			case <-late:
				t.Fatalf("HTTP/2 %t: %d of 30 requests reach the server at once", http2, n)
			}
		}
		for range 10 {
			soon, cancel := context.WithTimeout(t.Context(), 20*time.Second) // the others time out later
			_, err := clients[2].List(soon, 0, 100)
			cancel()
			if err != nil {
				t.Errorf("HTTP/2 %t: %v", http2, err)
				break
			}
		}
		cancel()
		ended.Wait()
	}
}

// A connection that all projects share must not be used after the network has
// dropped it.
func TestDeadConnectionIsFound(t *testing.T) {
	clients, _ := projectsOf(t, 1, true, answer(200, samplePage))
	if got := clients[0].transport.(*http.Transport).HTTP2; got.SendPingTimeout+got.PingTimeout >= 30*time.Second || got.SendPingTimeout == 0 || got.PingTimeout == 0 {
		t.Errorf("a ping after %v has %v to be answered, want less than the timeout of a request", got.SendPingTimeout, got.PingTimeout)
	}
}
