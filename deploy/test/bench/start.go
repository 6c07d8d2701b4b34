package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"opper_exporter/deploy/test/exportertest"
)

const database = "opper_exporter.db"

// start measures the real binary over a million listed traces: its initial sync,
// and starts that find the state of that. The floor of a start reads the file;
// the plain way has to read the list.
func (b *bench) start(ctx context.Context) error {
	traces := 1_000_000 / b.scale
	state := filepath.Join(b.dir, "state")
	binary, err := exportertest.Build(ctx, b.dir, false)
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
			e, err := launch(binary, url, "--storage.path="+state, "--collector.interval=1h")
			if err != nil {
				return err
			}
			defer func() { _ = e.Terminate() }() // what it stored is looked at
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

// exporter is a process of the binary.
type exporter struct{ *exportertest.Process }

func launch(binary, url string, args ...string) (exporter, error) {
	p, err := exportertest.Start(exportertest.Command(binary, url, args...))
	return exporter{p}, err
}

// ready waits until the exporter says that it is.
func (e exporter) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, awhile)
	defer cancel()
	_, err := e.Ready(ctx)
	return err
}

// memory returns what the process holds by itself, what of files, and the most
// that it used of both, where the system tells.
func (e exporter) memory() string {
	return fmt.Sprintf("%d + %d, %d", e.mib("RssAnon"), e.mib("RssFile"), e.mib("VmHWM"))
}

// mib returns a line of the process's status, 0 where the system does not tell.
func (e exporter) mib(key string) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.Cmd.Process.Pid)) // only there where it is
	_, rest, _ := strings.Cut(string(status), key+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0]) // the kernel wrote it
	return kib >> 10
}
