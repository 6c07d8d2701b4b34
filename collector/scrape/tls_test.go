package scrape

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"opper_exporter/deploy/test/exportertest"
)

// listenTLS is listen with a --web.config.file that has a certificate.
func listenTLS(t *testing.T, h http.Handler, changes ...change) (address string, client *tls.Config) {
	t.Helper()
	config, roots := exportertest.WebConfig(t, "")
	server := newServer(h, changes...)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		systemd := false
		flags := &web.FlagConfig{WebConfigFile: &config, WebSystemdSocket: &systemd}
		if err := web.Serve(listener, server, flags, slog.New(slog.DiscardHandler)); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		done.Wait()
	})
	return listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

// getTLS gets the root page over a connection of its own.
func getTLS(t *testing.T, address string, config *tls.Config) (protocol, body string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: patience, Transport: transport}
	resp, err := client.Get("https://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	return resp.Proto, string(b)
}

// A TLS handshake that is never finished ends with the read timeout.
func TestUnfinishedTLSHandshakesAreClosed(t *testing.T) {
	t.Parallel()
	hello := clientHello(t)
	partial := map[string]string{"nothing": "", "one byte": hello[:1], "half a hello": hello[:len(hello)/2], "hello only": hello}

	address, _ := listenTLS(t, http.NotFoundHandler(), readWithin(10*time.Millisecond))
	for what, text := range partial {
		awaitClosed(t, what, exportertest.Dial(t, address, text))
	}

	// Until then, there are no more of them than connections may be open.
	const maximum = 4
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metric 1\n") })
	address, config := listenTLS(t, ok, readWithin(time.Hour), func(server *http.Server, scrapers *Scrapers) {
		limitConnections(server, maximum, scrapers.IsScraper)
	})
	var stuck []net.Conn
	for range 3 * maximum {
		for _, text := range partial {
			stuck = append(stuck, exportertest.Dial(t, address, text))
		}
	}
	if protocol, body := getTLS(t, address, config); protocol != "HTTP/2.0" || body != "metric 1\n" {
		t.Errorf("%s, %q", protocol, body)
	}
	for _, conn := range stuck[:len(stuck)-maximum] {
		awaitClosed(t, "one of too many", conn)
	}
}

// clientHello returns the first record of a TLS client.
func clientHello(t *testing.T) string {
	t.Helper()
	client, server := net.Pipe()
	var done sync.WaitGroup
	defer done.Wait()
	defer func() { _ = errors.Join(client.Close(), server.Close()) }()                   // pipes close without errors
	done.Go(func() { _ = tls.Client(client, &tls.Config{ServerName: "x"}).Handshake() }) // ends with the pipe
	header := make([]byte, 5)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	return string(header) + string(body)
}

// streams is an HTTP/2 client that takes no byte of any response.
type streams struct {
	t       *testing.T
	conn    net.Conn
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   strings.Builder
	next    uint32
	maximum uint32 // of streams at once, as the server says
	window  uint32 // bytes of bodies that it takes unread
	reset   int    // streams that the server ended
	opened  bool   // the server has said what it allows
	closed  bool
}

func openStreams(t *testing.T, address string, config *tls.Config) *streams {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn := tls.Client(exportertest.Dial(t, address, ""), config)
	s := &streams{t: t, conn: conn, framer: http2.NewFramer(conn, conn), next: 1, window: 65_535}
	s.encoder = hpack.NewEncoder(&s.block)
	s.encoder.SetMaxDynamicTableSize(0)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	if err := s.framer.WritePing(false, [8]byte{}); err != nil {
		t.Fatal(err)
	}
	for !s.opened {
		s.read()
	}
	return s
}

// read takes one frame. A connection that is closed ends it.
func (s *streams) read() {
	s.t.Helper()
	frame, err := s.framer.ReadFrame()
	if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
		s.t.Fatal("no frame in time")
	}
	if err != nil {
		if !s.opened {
			s.t.Fatal(err)
		}
		s.closed = true
		return
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
			s.maximum = n
		}
	case *http2.WindowUpdateFrame:
		s.window += f.Increment
	case *http2.PingFrame:
		s.opened = s.opened || f.IsAck()
	case *http2.RSTStreamFrame:
		s.reset++
	case *http2.GoAwayFrame:
		s.closed = true
	}
}

// request opens a stream for the root page, with a header of some size.
func (s *streams) request(size int) {
	s.t.Helper()
	s.block.Reset()
	for _, field := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "x"},
		{Name: ":path", Value: "/"},
		{Name: "x-padding", Value: strings.Repeat("~", size)},
	} {
		if err := s.encoder.WriteField(field); err != nil {
			s.t.Fatal(err)
		}
	}
	block := []byte(s.block.String())
	first := block[:min(len(block), 16<<10)]
	block = block[len(first):]
	err := s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.next, BlockFragment: first, EndStream: true, EndHeaders: len(block) == 0})
	for len(block) > 0 && err == nil {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		err = s.framer.WriteContinuation(s.next, len(block) == 0, part)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.next += 2
}

// Streams that are never read hold no place, and end with the time for a
// response.
func TestStreamsThatDoNotReadBlockNoOther(t *testing.T) {
	t.Parallel()
	const body = "metric 1\n"
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	for _, timeout := range []time.Duration{time.Hour, time.Second} {
		t.Run(fmt.Sprint(timeout), func(t *testing.T) {
			t.Parallel()
			h := NewResponses(log.NewNopLogger(), timeout, maxUnsent).Buffer(make(slots, 1).limit(ok, refuse("busy", http.StatusServiceUnavailable)))
			address, config := listenTLS(t, h)
			var clients []*streams
			for range 5 {
				s := openStreams(t, address, config)
				for range s.maximum {
					s.request(0)
				}
				clients = append(clients, s)
			}
			if protocol, got := getTLS(t, address, config); protocol != "HTTP/2.0" || got != body {
				t.Errorf("%s, %q", protocol, got)
			}
			if timeout == time.Hour {
				return
			}
			for _, s := range clients {
				for s.reset < int(s.maximum) && !s.closed {
					s.read()
				}
				if s.reset != int(s.maximum) {
					t.Errorf("%d streams are ended, want %d", s.reset, s.maximum)
				}
			}
		})
	}
}

// What a connection makes the server keep does not grow with what the client
// sends.
func TestMemoryOfAConnectionIsBounded(t *testing.T) {
	const (
		connections = 8
		allowed     = 1 << 20 // each
	)
	blocked := make(chan struct{})
	entered := make(chan struct{}, 1<<10)
	address, config := listenTLS(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-blocked
		runtime.KeepAlive(r)
	}))
	defer close(blocked)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold is let go by the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var clients []*streams
	for range connections {
		s := openStreams(t, address, config)
		for range s.maximum {
			s.request(30 << 10)
		}
		for range s.maximum {
			<-entered
		}
		clients = append(clients, s)
	}
	each := (heap() - before) / connections
	if each += int64(clients[0].window); each > allowed {
		t.Errorf("%d streams and %d bytes of bodies take %d KiB of a connection", clients[0].maximum, clients[0].window, each>>10)
	}

	// One stream more is refused, and so is a header that is too large.
	s := clients[0]
	s.request(0)
	for s.reset == 0 && !s.closed {
		s.read()
	}
	s = clients[1]
	s.request(900_000)
	for !s.closed && s.reset == 0 {
		s.read()
	}
}
