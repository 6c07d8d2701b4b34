package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"opper_exporter/deploy/test/exportertest"
)

// shape says what is extreme about a list. Its rows are made when they are asked
// for, so that they may be larger than the memory.
type shape struct {
	name     string // also the value of the flag
	names    int    // distinct; 0 makes them all different
	statuses int    // likewise
	pad      int    // bytes added to each name
	open     bool   // no trace has ended
	odd      bool   // identifiers are not UUIDs
}

const defaultNames = 200

var shapes = []shape{
	{name: "200 names", names: defaultNames, statuses: 4},
	{name: "all names different", statuses: 4},
	{name: "all names different, of 64 kB", statuses: 4, pad: 64_000},
	{name: "all statuses and ids different strings", names: defaultNames, odd: true},
	{name: "all running, 200 names", names: defaultNames, statuses: 4, open: true},
	{name: "all running, all names different", statuses: 4, open: true},
	{name: "all running, all names different, of 64 kB", statuses: 4, pad: 64_000, open: true},
	{name: "all running, all names, statuses and ids different strings", open: true, odd: true},
}

// extremeList serves a list of a shape. An Opper of oppertest holds its traces, which
// would not fit.
type extremeList struct {
	shape
	traces int
	newest time.Time
	padded []byte
}

func newExtremeList(name string, traces int) (*extremeList, error) {
	for _, s := range shapes {
		if s.name == name {
			return &extremeList{shape: s, traces: traces, newest: time.Now().Add(-time.Minute).UTC(), padded: bytes.Repeat([]byte("x"), s.pad)}, nil
		}
	}
	return nil, fmt.Errorf("no list has the shape %q", name)
}

// ServeHTTP answers a listing. The newest trace is first.
func (l *extremeList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset")) // it is ours
	body := fmt.Appendf(nil, `{"meta":{"total_count":%d},"data":[`, l.traces)
	for i := offset; i < min(offset+pageSize, l.traces); i++ {
		if i > offset {
			body = append(body, ',')
		}
		body = l.appendRow(body, i)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, "]}"...)) // the client may have closed the connection
}

func (l *extremeList) appendRow(b []byte, i int) []byte {
	// A multiplication by an odd number makes each i another number, far from
	// those of its neighbours.
	mixed := uint64(i+1) * 0x9e3779b97f4a7c15
	id := fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", mixed>>32, mixed>>16&0xffff, mixed>>4&0xfff, mixed&0xfff, i)
	if l.odd {
		id = "trace_" + strings.ReplaceAll(id, "-", "_")
	}
	start := l.newest.Add(-time.Duration(i) * time.Millisecond)
	end, ms := "null", "null"
	if !l.open {
		ms = strconv.Itoa(1 + int(mixed>>40)%100_000)
		end = `"` + start.Add(time.Millisecond).Format(time.RFC3339Nano) + `"`
	}
	b = fmt.Appendf(b, `{"id":"%s","start_time":"%s","end_time":%s,"duration_ms":%s,"status":"status-%d","name":"agent-%d/answer`,
		id, start.Format(time.RFC3339Nano), end, ms, within(i, l.statuses), within(i, l.names))
	b = append(b, l.padded...)
	return fmt.Appendf(b, `","input":null,"output":null,"total_tokens":%d}`, mixed>>48)
}

// within returns i, or i modulo n if n is not 0.
func within(i, n int) int {
	if n == 0 {
		return i
	}
	return i % n
}

// extremes measures the most memory that the real binary takes over lists of a
// million traces, from its start until it is ready, and again when it starts
// with that state.
func (b *bench) extremes(ctx context.Context) error {
	traces := 1_000_000 / b.scale
	binary, err := exportertest.Build(ctx, b.dir, false)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, s := range shapes {
		if b.shape != "" && b.shape != s.name {
			continue
		}
		printf(b.progress, "extremes, %s\n", s.name)
		row, err := b.extreme(ctx, binary, s, traces)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, row)
	}
	b.table(fmt.Sprintf("Peak memory of the binary over %d listed traces, with state on disk, in MiB: RssAnon, and in brackets the peak of RssAnon + RssFile", traces),
		[]string{"", "initial sync", "its time", "start with that state", "its time", "state file", "goal"}, rows)
	return nil
}

func (b *bench) extreme(ctx context.Context, binary string, s shape, traces int) ([]string, error) {
	url, stop, err := served(ctx, listConfig{shape: s.name, traces: traces})
	if err != nil {
		return nil, err
	}
	defer stop()
	state := filepath.Join(b.dir, "extreme")
	defer os.RemoveAll(state) //nolint:errcheck // the next one begins with what is there, and shows it
	row := []string{s.name}
	for range 2 {
		began := time.Now()
		e, err := launch(binary, url, "--storage.path="+state)
		if err != nil {
			return nil, err
		}
		peak := e.watch()
		err = e.ready(ctx)
		took := time.Since(began)
		row = append(row, peak(), short(took))
		if err = errors.Join(err, e.Terminate()); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(filepath.Join(state, database))
	if err != nil {
		return nil, err
	}
	goal := "256"
	if s.names == defaultNames {
		goal = "128"
	}
	return append(row, strconv.FormatInt(info.Size()>>20, 10), goal), nil
}

// watch samples the memory of a process until the function that it returns is
// called, which returns the peaks.
func (e exporter) watch() (peak func() string) {
	done, maximum := make(chan struct{}), make(chan int)
	go func() {
		anon := 0
		again := time.NewTicker(10 * time.Millisecond)
		defer again.Stop()
		for {
			anon = max(anon, e.mib("RssAnon"))
			select {
			case <-done:
				maximum <- anon
				return
			case <-again.C:
			}
		}
	}()
	return func() string {
		close(done)
		return fmt.Sprintf("%d (%d)", <-maximum, e.mib("VmHWM"))
	}
}
