package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"opper_exporter/deploy/test/exportertest"
)

const (
	scaleTraces = 1000 // of each project
	scaleNames  = 10
	// scaleInterval is that of the syncs.
	scaleInterval = time.Minute
	// writeInterval is how often a quiet project writes when it synced last. All that
	// were started together do so in the same minute of it.
	writeInterval = 5 * time.Minute
	// ticks is the unit of the processor times that Linux tells, for each second.
	ticks = 100
)

// projects measures the binary with many projects, in which nothing happens. It is
// for Linux, which tells what a process uses.
func (b *bench) projects(ctx context.Context) error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		printf(b.out, "\nThe cost of many projects is not measured: %v.\n", err)
		return nil
	}
	binary, err := exportertest.Build(ctx, b.dir, false)
	if err != nil {
		return err
	}
	url, stop, err := served(ctx, listConfig{traces: scaleTraces, names: scaleNames, projects: true})
	if err != nil {
		return err
	}
	defer stop()
	head := []string{"projects"}
	rows := [][]string{
		{"initial syncs of all"},
		{"start with that state, until ready"},
		{"processor time of that start"},
		{"transactions of the first syncs and reads of usage"},
		{"quiet: requests of a sync"},
		{"quiet: requests for usage and budget a minute"},
		{"quiet: processor time, share of one"},
		{"quiet: transactions a minute"},
		{"quiet: written to the disk a minute, KiB"},
		{"anonymous memory, MiB"},
		{"with the state file mapped, MiB"},
		{"state file, MiB"},
		{"`/probe` of one, KiB"},
		{"`/probe` of one, time"},
		{"`/metrics`, KiB"},
		{"`/metrics`, time"},
		{"peak of memory by then, MiB"},
		{"reload with one changed"},
	}
	for _, n := range []int{1, 100, 1000} {
		n = max(n/b.scale, 1)
		printf(b.progress, "%d projects\n", n)
		s := scaled{bench: b, projects: n, dir: filepath.Join(b.dir, fmt.Sprint("projects-", n)), url: url, binary: binary}
		figures, err := s.measure(ctx)
		if err != nil {
			return fmt.Errorf("%d projects: %w", n, err)
		}
		head = append(head, strconv.Itoa(n))
		for i, f := range figures {
			rows[i] = append(rows[i], f)
		}
	}
	goals := map[string]string{
		"quiet: requests of a sync": "2", "quiet: processor time, share of one": "25 %", "with the state file mapped, MiB": "300",
		"`/probe` of one, time": "1 ×", "reload with one changed": "1 s",
	}
	for i := range rows {
		rows[i] = append(rows[i], goals[rows[i][0]])
	}
	b.table(fmt.Sprintf("Projects of %d traces and %d names, synced every %s", scaleTraces, scaleNames, scaleInterval), append(head, "goal"), rows)
	return nil
}

// scaled measures one number of projects.
type scaled struct {
	*bench
	projects         int
	dir, url, binary string
}

func (s *scaled) measure(ctx context.Context) (figures []string, err error) {
	keys := filepath.Join(s.dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, err
	}
	for i := range s.projects - 1 {
		if err := os.WriteFile(filepath.Join(keys, fmt.Sprintf("project-%04d", i)), fmt.Appendf(nil, "key-%d", i), 0o600); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(s.dir, "key"), []byte("key"), 0o600), s.configure(scaleInterval)); err != nil {
		return nil, err
	}

	began := time.Now()
	e, _, err := s.launch(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { e.Kill() }()
	figures = append(figures, short(time.Since(began)))
	if err := e.Terminate(); err != nil {
		return nil, err
	}

	transactions, requests, _, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	began = time.Now()
	var address string
	if e, address, err = s.launch(ctx); err != nil {
		return nil, err
	}
	figures = append(figures, short(time.Since(began)), short(e.processorTime()))
	// The first syncs, and what the garbage collector does after a start.
	if err := e.Await(ctx, func() error {
		if _, now, _, err := s.counts(ctx); err != nil || now < requests+2*s.projects {
			return errors.Join(err, errors.New("not all projects have synced"))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	// Usage is counted once all projects have read theirs.
	if err := wait(ctx, 3*scaleInterval); err != nil {
		return nil, err
	}
	first := transactions
	var usage int
	if transactions, requests, usage, err = s.counts(ctx); err != nil {
		return nil, err
	}
	figures = append(figures, strconv.Itoa(transactions-first))

	used, written := e.processorTime(), e.written()
	if err := wait(ctx, s.window); err != nil {
		return nil, err
	}
	used, written = e.processorTime()-used, e.written()-written
	first, before, usageBefore := transactions, requests, usage
	if transactions, requests, usage, err = s.counts(ctx); err != nil {
		return nil, err
	}
	minutes := s.window.Minutes()
	info, err := os.Stat(filepath.Join(s.dir, "state", database))
	if err != nil {
		return nil, err
	}
	anonymous, file := e.mib("RssAnon"), e.mib("RssFile")
	figures = append(figures,
		fmt.Sprintf("%.2f", float64(requests-before)/float64(s.projects)/(s.window.Seconds()/scaleInterval.Seconds())),
		fmt.Sprintf("%.0f", float64(usage-usageBefore)/minutes),
		fmt.Sprintf("%.2f %%", 100*used.Seconds()/s.window.Seconds()),
		s.writes(transactions-first), s.writes(written>>10),
		strconv.Itoa(anonymous), strconv.Itoa(anonymous+file), strconv.FormatInt(info.Size()>>20, 10))

	for _, page := range []struct {
		path  string
		times int
	}{{"/probe?target=changing", 20 * s.rounds}, {"/metrics", s.rounds}} {
		size, took, err := s.scraped(ctx, address+page.path, page.times)
		if err != nil {
			return nil, err
		}
		figures = append(figures, strconv.FormatInt(size>>10, 10), short(took))
	}
	figures = append(figures, strconv.Itoa(e.mib("VmHWM")))

	if err := s.configure(scaleInterval + time.Second); err != nil {
		return nil, err
	}
	began = time.Now()
	if err := s.reload(ctx, address); err != nil {
		return nil, err
	}
	return append(figures, short(time.Since(began))), e.Terminate()
}

// writes returns what was written a minute, if that is known.
func (s *scaled) writes(n int) string {
	if s.window%writeInterval != 0 {
		return fmt.Sprintf("– (--window is no multiple of %s)", writeInterval)
	}
	return fmt.Sprintf("%.0f", float64(n)/s.window.Minutes())
}

// configure writes the file with one project apart, which has this interval.
func (s *scaled) configure(interval time.Duration) error {
	return os.WriteFile(filepath.Join(s.dir, "opper.yml"), fmt.Appendf(nil,
		"projects:\n  - {name: changing, api_key_file: key, interval: %s}\nproject_key_directories: [keys]\n", interval), 0o600)
}

func (s *scaled) launch(ctx context.Context) (e exporter, address string, err error) {
	cmd := exportertest.Command(s.binary, s.url, "--config.file="+filepath.Join(s.dir, "opper.yml"), "--storage.path="+filepath.Join(s.dir, "state"),
		"--collector.interval="+scaleInterval.String(), "--web.enable-lifecycle")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, "OPPER_API_KEY=") })
	p, err := exportertest.Start(cmd)
	if err != nil {
		return e, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, awhile)
	defer cancel()
	address, err = p.Ready(ctx)
	if err != nil {
		p.Kill()
	}
	return exporter{p}, "http://" + address, err
}

// counts returns the transactions of the state file, and the requests to all projects:
// for listings, and for usage and budget.
func (s *scaled) counts(ctx context.Context) (transactions, requests, usage int, err error) {
	file, err := os.Open(filepath.Join(s.dir, "state", database))
	if err != nil {
		return 0, 0, 0, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	// bbolt numbers them in one of its first two pages.
	const number = 64
	for page := range int64(2) {
		var b [8]byte
		if _, err := file.ReadAt(b[:], page*int64(os.Getpagesize())+number); err != nil {
			return 0, 0, 0, err
		}
		transactions = max(transactions, int(binary.NativeEndian.Uint64(b[:])))
	}
	for path, to := range map[string]*int{"/requests": &requests, "/requests/usage": &usage} {
		body, err := s.get(ctx, http.MethodGet, s.url+path)
		if err != nil {
			return 0, 0, 0, err
		}
		if *to, err = strconv.Atoi(string(body)); err != nil {
			return 0, 0, 0, err
		}
	}
	return transactions, requests, usage, nil
}

// scraped returns the size of a page and the least time that it took.
func (s *scaled) scraped(ctx context.Context, url string, times int) (size int64, took time.Duration, err error) {
	for range times {
		began := time.Now()
		body, err := s.get(ctx, http.MethodGet, url)
		if err != nil {
			return 0, 0, err
		}
		size, took = int64(len(body)), minimum(took, time.Since(began))
	}
	return size, took, nil
}

func (s *scaled) reload(ctx context.Context, address string) error {
	_, err := s.get(ctx, http.MethodPost, address+"/-/reload")
	return err
}

func (s *scaled) get(ctx context.Context, method, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return body, err
}

// processorTime returns what the process has used of the processors.
func (e exporter) processorTime() time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.Cmd.Process.Pid)) // it has been there
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields, sum := strings.Fields(rest), 0
	for _, i := range []int{11, 12} { // of the program, and of the kernel for it
		if i < len(fields) {
			n, _ := strconv.Atoi(fields[i]) // the kernel wrote it
			sum += n
		}
	}
	return time.Duration(sum) * time.Second / ticks
}

// written returns how many bytes the process has caused to be written to the disk.
func (e exporter) written() int {
	io, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", e.Cmd.Process.Pid)) // it has been there
	_, rest, _ := strings.Cut(string(io), "\nwrite_bytes: ")
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(line) // the kernel wrote it
	return n
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
