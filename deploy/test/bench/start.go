package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const database = "opper_exporter.db"

// start measures the real binary over a million listed traces: its initial sync,
// and starts that find the state of that. The floor of a start reads the file;
// the plain way has to read the list.
func (b *bench) start(ctx context.Context) error {
	traces := 1_000_000 / b.scale
	state := filepath.Join(b.dir, "state")
	binary, err := b.build(ctx)
	if err != nil {
		return err
	}
	url, stop, err := served(ctx, listConfig{traces: traces, names: 200})
	if err != nil {
		return err
	}
	defer stop()
	var memories [2]string
	once := func(which int) func(context.Context) error {
		return func(ctx context.Context) error {
			e, err := launch(ctx, binary, "--opper.url="+url, "--storage.path="+state)
			if err != nil {
				return err
			}
			defer e.stop()
			if err := e.ready(ctx); err != nil {
				return err
			}
			memories[which] = e.memory()
			return nil
		}
	}
	read, err := b.race(ctx, fmt.Sprintf("initial sync of %d", traces),
		side{name: "download", once: true, run: func(ctx context.Context) error { return newDownload(url, concurrency).pages(ctx, every(traces)) }},
		side{name: "plain", once: true, run: func(ctx context.Context) error { return newPlain().readAll(ctx, http.DefaultClient, url) }},
		side{name: "ours", once: true, run: once(0)})
	if err != nil {
		return err
	}
	started, err := b.race(ctx, "start",
		side{name: "read", run: func(context.Context) error {
			_, err := os.ReadFile(filepath.Join(state, database))
			return err
		}},
		side{name: "ours", run: once(1)})
	if err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(state, database))
	if err != nil {
		return err
	}
	b.table(fmt.Sprintf("The binary over %d listed traces, from its start until it is ready", traces),
		[]string{"", "floor", "plain", "ours", "goal", "RssAnon + RssFile, peak of both, MiB", "state file, MiB"}, [][]string{
			{"initial sync, with state on disk", short(read[0].took), short(read[1].took), short(read[2].took), "", memories[0], strconv.FormatInt(info.Size()>>20, 10)},
			{"start with that state", short(started[0].took), short(read[1].took), short(started[1].took), "1 s, 96 MiB RssAnon", memories[1], strconv.FormatInt(info.Size()>>20, 10)},
		})
	return nil
}

// build builds the binary and returns its path.
func (b *bench) build(ctx context.Context) (string, error) {
	binary := filepath.Join(b.dir, "opper_exporter")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "opper_exporter") //nolint:gosec // into a directory of our own
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// exporter is a process of the binary.
type exporter struct {
	cmd   *exec.Cmd
	log   output
	ended chan struct{}
}

// output keeps what a process prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func launch(ctx context.Context, binary string, args ...string) (*exporter, error) {
	e := &exporter{ended: make(chan struct{})}
	e.cmd = exec.CommandContext(ctx, binary, append([]string{ //nolint:gosec // it was built above
		"--web.listen-address=127.0.0.1:0", "--opper.max-requests-per-second=0", "--collector.interval=1h",
	}, args...)...)
	e.cmd.Env = append(os.Environ(), "OPPER_API_KEY=key")
	e.cmd.Stderr = &e.log
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = e.cmd.Wait() // its log says more
		close(e.ended)
	}()
	return e, nil
}

var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// ready waits until the exporter says that it is.
func (e *exporter) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, awhile)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		if found := listening.FindStringSubmatch(e.log.String()); found != nil && answers(ctx, "http://"+found[1]+"/-/ready") {
			return nil
		}
		select {
		case <-e.ended:
			return errors.New("the exporter has ended: " + e.log.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

func answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection serves again
	return response.StatusCode == http.StatusOK
}

// memory returns what the process holds by itself, what of files, and the most
// that it held of both, where the system tells.
func (e *exporter) memory() string {
	return fmt.Sprintf("%d + %d, %d", e.mib("RssAnon"), e.mib("RssFile"), e.mib("VmHWM"))
}

// mib returns a line of the process's status, 0 where the system does not tell.
func (e *exporter) mib(key string) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid)) // only there where it is
	_, rest, _ := strings.Cut(string(status), key+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0]) // the kernel wrote it
	return kib >> 10
}

func (e *exporter) stop() {
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	<-e.ended
}
