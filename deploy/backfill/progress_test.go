package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/logging"
)

// Without a terminal, a step logs now and then how far it is.
func TestProgressIsLogged(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.logger, _ = logging.New(p, "info", "logfmt")
	p.begin("writing history")
	p.set(1, 10)
	if out.Len() > 0 {
		t.Errorf("it is logged at once: %s", out.String())
	}
	p.logged = time.Now().Add(-logInterval)
	p.set(5, 10)
	p.set(6, 10)
	p.end()
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), `msg="writing history" done=5 of=10`) {
		t.Errorf("log: %s", out.String())
	}
}

// On a terminal it is a bar, which makes room for lines of the log and goes at the end.
func TestProgressIsABar(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.isTerminal = true
	p.logger, _ = logging.New(p, "info", "logfmt")
	p.begin("writing history")
	p.set(5, 10)
	if bar := out.String(); !strings.Contains(bar, "writing history") || !strings.Contains(bar, "/10)") {
		t.Errorf("bar: %q", bar)
	}
	level.Warn(p.logger).Log("msg", "a line")
	p.end()
	var left string
	for line := range strings.SplitSeq(out.String(), "\n") {
		at := strings.LastIndex(line, "\r") // what is before it is overwritten
		left += line[at+1:] + "\n"
	}
	if !strings.Contains(left, "msg=\"a line\"") || strings.Contains(left, "writing history") {
		t.Errorf("on the terminal is %q, of %q", left, out.String())
	}
}
