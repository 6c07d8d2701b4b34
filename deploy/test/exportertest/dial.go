package exportertest

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// Dial connects to an address and sends a text. The connection is open until the
// test ends.
func Dial(t testing.TB, address, text string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Request is the head of an HTTP request.
func Request(method, path string, lines ...string) string {
	return strings.Join(append([]string{method + " " + path + " HTTP/1.1", "Host: x"}, lines...), "\r\n") + "\r\n\r\n"
}

// Status reads the first line of an HTTP response.
func Status(t testing.TB, conn net.Conn) string {
	t.Helper()
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return strings.TrimSpace(line)
}

// FreeAddress returns an address on which nothing listens. Its port is not among
// those that the system gives to others meanwhile.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address); err == nil {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}
