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
	"sync/atomic"
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
	idPad    int    // bytes added to each of those
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
	{name: "all running, ids of 250 bytes", names: defaultNames, statuses: 4, open: true, odd: true, idPad: 200},
}

// extremeList serves a list of a shape. An Opper of oppertest holds its traces, which
// would not fit.
type extremeList struct {
	shape
	traces int
	spare  atomic.Int64 // of them, which are newer and not listed yet
	newest time.Time
	padded []byte
}

func newExtremeList(c listConfig) (*extremeList, error) {
	for _, s := range shapes {
		if s.name == c.shape {
			l := &extremeList{shape: s, traces: c.traces + c.spare, newest: time.Now().Add(-time.Minute).UTC(), padded: bytes.Repeat([]byte("x"), s.pad)}
			l.spare.Store(int64(c.spare))
			return l, nil
		}
	}
	return nil, fmt.Errorf("no list has the shape %q", c.shape)
}

// ServeHTTP answers a listing, in which the newest trace is first, or a request for
// one trace. POST /grow lists the spare traces.
func (l *extremeList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	spare := int(l.spare.Load())
	var body []byte
	switch _, id, isOne := strings.Cut(r.URL.Path, "/traces/"); {
	case r.URL.Path == "/grow":
		l.spare.Store(0)
		return
	case isOne:
		i, ok := l.find(id, spare)
		if !ok {
			http.NotFound(w, r)
			return
		}
		body = l.appendRow(nil, i)
	default:
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset")) // it is ours
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		body = fmt.Appendf(nil, `{"meta":{"total_count":%d},"data":[`, l.traces-spare)
		for i := spare + offset; i < min(spare+offset+limit, l.traces); i++ {
			if i > spare+offset {
				body = append(body, ',')
			}
			body = l.appendRow(body, i)
		}
		body = append(body, "]}"...)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client may have closed the connection
}

// find returns the number of the listed trace that has an identifier.
func (l *extremeList) find(id string, spare int) (int, bool) {
	i, err := strconv.ParseInt(id[max(0, len(id)-12):], 16, 64)
	if err != nil || int(i) < spare || int(i) >= l.traces || l.id(int(i)) != id {
		return 0, false
	}
	return int(i), true
}

// mixed makes each i another number, far from those of its neighbours, as a
// multiplication by an odd number does.
func mixed(i int) uint64 { return uint64(i+1) * 0x9e3779b97f4a7c15 }

func (l *extremeList) id(i int) string {
	m := mixed(i)
	id := fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", m>>32, m>>16&0xffff, m>>4&0xfff, m&0xfff, i)
	if l.odd {
		id = strings.Repeat("trace_", l.idPad/len("trace_")+1) + strings.ReplaceAll(id, "-", "_")
	}
	return id
}

func (l *extremeList) appendRow(b []byte, i int) []byte {
	mixed, id := mixed(i), l.id(i)
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
	rows, err := b.eachShape("extremes", func(shape) bool { return true }, func(s shape) ([]string, error) { return b.extreme(ctx, binary, s, traces) })
	if err != nil {
		return err
	}
	b.table(fmt.Sprintf("Peak memory of the binary over %d listed traces, with state on disk, in MiB: RssAnon, and in brackets the peak of RssAnon + RssFile", traces),
		[]string{"", "initial sync", "its time", "start with that state", "its time", "state file", "goal"}, rows)
	return nil
}

// eachShape measures the shape that --shape names, or else those that are usual.
func (b *bench) eachShape(what string, isUsual func(shape) bool, measure func(shape) ([]string, error)) (rows [][]string, err error) {
	for _, s := range shapes {
		if b.shape != s.name && (b.shape != "" || !isUsual(s)) {
			continue
		}
		printf(b.progress, "%s, %s\n", what, s.name)
		row, err := measure(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
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
		e, err := launch(binary, url, "--storage.path="+state, "--collector.interval=1h")
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
	return append(row, strconv.FormatInt(info.Size()>>20, 10), s.goal()), nil
}

// bursts measures the most memory that the binary takes while a million traces
// arrive in a list of a thousand, until all of them are counted, or first seen if they
// run.
func (b *bench) bursts(ctx context.Context) error {
	traces := 1_000_000 / b.scale
	binary, err := exportertest.Build(ctx, b.dir, false)
	if err != nil {
		return err
	}
	isUsual := func(s shape) bool { return s.pad == 0 }
	rows, err := b.eachShape("bursts", isUsual, func(s shape) ([]string, error) { return b.burst(ctx, binary, s, traces) })
	if err != nil {
		return err
	}
	b.table(fmt.Sprintf("Peak memory of the binary while %d traces arrive, with state on disk, in MiB: RssAnon, and in brackets the peak of RssAnon + RssFile", traces),
		[]string{"", "peak", "time", "goal"}, rows)
	return nil
}

func (b *bench) burst(ctx context.Context, binary string, s shape, traces int) ([]string, error) {
	url, stop, err := served(ctx, listConfig{shape: s.name, traces: 1000, spare: traces})
	if err != nil {
		return nil, err
	}
	defer stop()
	state := filepath.Join(b.dir, "burst")
	defer os.RemoveAll(state) //nolint:errcheck // the next one begins with what is there, and shows it
	e, err := launch(binary, url, "--storage.path="+state, "--collector.interval=1s", "--collector.settle-delay=5s")
	if err != nil {
		return nil, err
	}
	peak := e.watch()
	began := time.Now()
	err = errors.Join(e.ready(ctx), grow(ctx, url), e.awaitTraces(ctx, s.family(), float64(traces+1000)))
	row := []string{s.name, peak(), short(time.Since(began)), s.goal()}
	return row, errors.Join(err, e.Terminate())
}

// family is what says how many traces of a list were seen.
func (s *shape) family() string {
	if s.open {
		return "opper_traces_open"
	}
	return "opper_traces_total"
}

func (s *shape) goal() string {
	if s.names == defaultNames {
		return "128"
	}
	return "256"
}

func grow(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/grow", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// awaitTraces waits until the series of a family add up to a number.
func (e exporter) awaitTraces(ctx context.Context, family string, want float64) error {
	ctx, cancel := context.WithTimeout(ctx, awhile)
	defer cancel()
	address, err := e.Listening(ctx)
	if err != nil {
		return err
	}
	return e.Await(ctx, func() error {
		families, err := exportertest.Families(ctx, address)
		if err != nil {
			return err
		}
		got := 0.0
		for _, m := range families[family].GetMetric() {
			got += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		if got != want {
			return fmt.Errorf("%s is %v, want %v", family, got, want)
		}
		return nil
	})
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
