package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// rowStart is what each row begins with.
var rowStart = []byte(`{"id":"`)

// listConfig says what a list of traces is like.
type listConfig struct {
	traces int
	spare  int // more, that are listed when they are asked for
	body   int // bytes of each input and each output; 0 makes them null
	kind   string
	names  int
	shape  string // of an extreme list; empty for one as it is seen in practice
	// projects gives each key a list of its own, without bodies.
	projects bool
}

const (
	serveFlag = "serve"
	pageSize  = 100
)

func (c *listConfig) flags(app *kingpin.Application) {
	app.Flag("traces", "").Hidden().IntVar(&c.traces)
	app.Flag("spare", "").Hidden().IntVar(&c.spare)
	app.Flag("body", "").Hidden().IntVar(&c.body)
	app.Flag("kind", "").Hidden().Default(prose).StringVar(&c.kind)
	app.Flag("names", "").Hidden().Default("40").IntVar(&c.names)
	app.Flag("shape", "").Hidden().StringVar(&c.shape)
	app.Flag("projects", "").Hidden().BoolVar(&c.projects)
}

func (c *listConfig) args() []string {
	args := []string{
		"--" + serveFlag, "--traces=" + strconv.Itoa(c.traces), "--spare=" + strconv.Itoa(c.spare),
		"--body=" + strconv.Itoa(c.body), "--kind=" + c.kind, "--names=" + strconv.Itoa(c.names),
		"--shape=" + c.shape,
	}
	if c.projects {
		args = append(args, "--projects")
	}
	return args
}

// The kinds of bodies.
const (
	prose   = "prose"   // sentences in ASCII, with a line break or a quote now and then
	letters = "letters" // nothing but ASCII
	escapes = "escapes" // code and JSON, as a string in JSON
	scripts = "scripts" // UTF-8 of all lengths
)

var texts = map[string]string{
	prose:   "The agent looked up the order and found that it had left the warehouse on Monday.\nIt wrote to the customer: \"Your parcel is on its way, and will arrive on Thursday.\" No tool failed, and nothing was asked twice. ",
	letters: "The agent looked up the order and found that it had left the warehouse on Monday. ",
	escapes: "{\n\t\"tool\": \"search\",\n\t\"query\": \"SELECT \\\"id\\\" FROM t\"\n}\n",
	scripts: "Größe und Maß, 日本語の文章, текст на русском, 🙂 عربى. ",
}

// content returns one input or output of n bytes or a little more, as JSON.
func (c *listConfig) content() []byte {
	if c.body == 0 {
		return []byte("null")
	}
	text := texts[c.kind]
	quoted, err := json.Marshal(strings.Repeat(text, c.body/len(text)+1))
	if err != nil {
		panic(err) // a string can always be marshaled
	}
	return quoted
}

// list is a list of traces that has been rendered. The newest is first. An Opper of
// oppertest renders a row each time that it is asked for, which would take longer
// than what is measured; here a page is a piece of memory.
type list struct {
	rows []byte // each with a comma behind it
	ends []int  // of the rows
	head atomic.Int64
	sent atomic.Int64 // bytes of answers

	projects bool // each key has identifiers of its own
	requests atomic.Int64
}

// newList renders a list: names with four outcomes each, durations and tokens
// over some orders of magnitude. All of its traces have ended, or, but for the
// spare ones, been abandoned, long enough ago to be counted at once.
func newList(c listConfig) *list {
	rng := rand.New(rand.NewPCG(1, 2))
	body := c.content()
	n := c.traces + c.spare
	l := &list{projects: c.projects, rows: make([]byte, 0, n*(2*len(body)+300)), ends: make([]int, 0, n)}
	l.head.Store(int64(c.spare))
	newest := time.Now().Add(-2 * time.Hour).UTC()
	statuses := []string{`"success"`, `"ok"`, `"success"`, `"error"`, `"cancelled"`, "null"}
	for i := range n {
		ms := math.Round(2000 * math.Exp(1.2*rng.NormFloat64()))
		end := newest.Add(-time.Duration(i) * time.Second / 2)
		start := end.Add(-time.Duration(ms) * time.Millisecond)
		ended, duration := `"`+end.Format(time.RFC3339Nano)+`"`, strconv.FormatFloat(ms, 'f', -1, 64)
		if rng.IntN(20) == 0 && i >= c.spare {
			ended, duration = "null", "null"
		}
		l.rows = append(l.rows, rowStart...)
		l.rows = fmt.Appendf(l.rows, `%08x-%04x-4%03x-8%03x-%012x","start_time":"%s","end_time":%s,"duration_ms":%s,"status":%s,"name":"agent-%d/answer","input":`,
			rng.Uint32(), rng.Uint32()>>16, rng.Uint32()>>20, rng.Uint32()>>20, rng.Uint64()>>16,
			start.Format(time.RFC3339Nano), ended, duration, statuses[rng.IntN(len(statuses))], rng.IntN(c.names))
		l.rows = append(l.rows, body...)
		l.rows = append(l.rows, `,"output":`...)
		l.rows = append(l.rows, body...)
		l.rows = fmt.Appendf(l.rows, `,"total_tokens":%d},`, int(800*math.Exp(rng.NormFloat64())))
		l.ends = append(l.ends, len(l.rows))
	}
	return l
}

// page returns the parts of an answer.
func (l *list) page(offset, limit int) [3][]byte {
	head := int(l.head.Load())
	total := len(l.ends) - head
	from := min(max(offset, 0), total)
	to := min(from+limit, total)
	parts := [3][]byte{fmt.Appendf(nil, `{"meta":{"total_count":%d},"data":[`, total), nil, []byte("]}")}
	if from < to {
		begin := 0
		if head+from > 0 {
			begin = l.ends[head+from-1]
		}
		parts[1] = l.rows[begin : l.ends[head+to-1]-1]
	}
	return parts
}

// ofProject returns rows with identifiers that only the project of a key has. All else
// is the same in each, so that a thousand lists take the memory of one.
func (l *list) ofProject(key string, rows []byte) []byte {
	if !l.projects {
		return rows
	}
	own := projectID(key)
	rows = bytes.Clone(rows)
	for at := 0; ; {
		next := bytes.Index(rows[at:], rowStart)
		if next < 0 {
			return rows
		}
		at += next + len(rowStart)
		copy(rows[at:], own)
	}
}

// projectID returns what the identifiers of the project of a key begin with.
func projectID(key string) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(key))) }

// ServeHTTP answers a listing. POST /grow lists some of the spare traces, GET /sent
// says how many bytes of listings were sent, GET /requests how many listings.
func (l *list) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/grow" {
		l.head.Add(-pageSize)
		return
	}
	if r.URL.Path == "/sent" {
		printf(w, "%d", l.sent.Load())
		return
	}
	if r.URL.Path == "/requests" {
		printf(w, "%d", l.requests.Load())
		return
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(r.URL.Query().Get(key)) // it is ours
		return n
	}
	parts := l.page(number("offset"), number("limit"))
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	parts[1] = l.ofProject(r.Header.Get("Authorization"), parts[1])
	l.requests.Add(1)
	l.sent.Add(int64(length))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(length))
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// serveList serves a list until stdin ends, and says where.
func serveList(ctx context.Context, c listConfig, stdin io.Reader, stdout io.Writer) error {
	var handler http.Handler
	if c.shape == "" {
		handler = newList(c)
	} else {
		extreme, err := newExtremeList(c)
		if err != nil {
			return err
		}
		handler = extreme
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &usage{next: handler}, ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // however it ends, the list is not needed any more
		_ = server.Close()
	}()
	printf(stdout, "http://%s\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// served starts a process that serves a list, so that it has a heap of its own,
// and returns its URL and how to end it.
func served(ctx context.Context, c listConfig) (url string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, self, c.args()...) //nolint:gosec // it is this program
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = stdin.Close()
		_ = cmd.Wait() // it has served, whatever it says now
	}
	url, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("the list is not served: %w", err)
	}
	return strings.TrimSpace(url), stop, nil
}

// download reads whole pages and throws them away, as fast as it can: several
// at once, in large pieces.
type download struct {
	client http.Client
	url    string
	atOnce int
}

func newDownload(url string, atOnce int) *download {
	return &download{client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}, url: url, atOnce: atOnce}
}

func (d *download) pages(ctx context.Context, offsets []int) error {
	var next atomic.Int64
	failed := make(chan error, d.atOnce)
	for range d.atOnce {
		go func() {
			buf := make([]byte, 64<<10)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(offsets) {
					failed <- nil
					return
				}
				if err := d.page(ctx, offsets[i], buf); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	var err error
	for range d.atOnce {
		err = errors.Join(err, <-failed)
	}
	return err
}

func (d *download) page(ctx context.Context, offset int, buf []byte) error {
	return fetch(ctx, &d.client, d.url, offset, func(body io.Reader) error {
		for {
			if _, err := body.Read(buf); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

func fetch(ctx context.Context, client *http.Client, url string, offset int, read func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v2/traces?offset=%d&limit=%d", url, offset, pageSize), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return read(response.Body)
}

// every returns the offsets of all pages of a list.
func every(traces int) []int {
	var offsets []int
	for at := 0; at < traces; at += pageSize {
		offsets = append(offsets, at)
	}
	return offsets
}
