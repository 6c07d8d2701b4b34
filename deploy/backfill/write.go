package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"opper_exporter/deploy/backfill/block"
	"opper_exporter/deploy/backfill/history"
	"opper_exporter/deploy/backfill/openmetrics"
	"opper_exporter/deploy/backfill/plan"
)

// written counts what was written.
type written struct {
	mu             sync.Mutex
	files          int // or blocks
	samples, bytes uint64
	what           string
	where          string
	took           time.Duration
}

// String says what was written.
func (w *written) String() string {
	return fmt.Sprintf("wrote %d %s with %s samples, %s, to %s in %s", w.files, w.what, humanize.Comma(int64(w.samples)), humanize.Bytes(w.bytes), w.where, w.took.Round(time.Second/10))
}

// write writes ranges of the history, several at once.
func write(ctx context.Context, h *history.History, ranges []plan.Range, o *options, shown *progress) (*written, error) {
	began := time.Now()
	w := &written{what: "blocks", where: filepath.Join(o.Output, blocksDir)}
	one := writeBlock
	if o.Format == plan.OpenMetrics {
		w.what, w.where, one = "files", filepath.Join(o.Output, openMetricsDir), writeText
	}
	if err := os.Mkdir(w.where, 0o755); err != nil { //nolint:gosec // the server may run as another user
		return nil, err
	}
	shown.begin("writing history")
	defer shown.end()
	shown.set(0, len(ranges))
	done := 0
	workers, ctx := errgroup.WithContext(ctx)
	n := min(runtime.GOMAXPROCS(0), len(ranges))
	for i := range n {
		workers.Go(func() error {
			reader := h.NewReader() // goes forward only
			for j := i; j < len(ranges); j += n {
				samples, bytes, err := one(ctx, w.where, ranges[j], reader)
				if err != nil {
					return err
				}
				w.mu.Lock()
				if done++; samples > 0 {
					w.files++
				}
				w.samples += samples
				w.bytes += bytes
				shown.set(done, len(ranges))
				w.mu.Unlock()
			}
			return nil
		})
	}
	err := workers.Wait()
	w.took = time.Since(began)
	return w, cmp.Or(err, syncDir(w.where))
}

func writeBlock(ctx context.Context, dir string, r plan.Range, reader *history.Reader) (samples, bytes uint64, err error) {
	meta, size, err := block.Write(ctx, dir, r.Min, r.Max, reader.Series(r.Min, r.Max))
	return meta.Stats.NumSamples, uint64(size), err
}

// writeText writes the file of a day, which appears when it is whole.
func writeText(ctx context.Context, dir string, r plan.Range, reader *history.Reader) (samples, bytes uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	path := filepath.Join(dir, time.UnixMilli(r.Min).UTC().Format(time.DateOnly)+".txt")
	tmp := path + ".tmp"
	file, err := os.Create(tmp)
	if err != nil {
		return 0, 0, err
	}
	samples, err = openmetrics.Write(&contextWriter{ctx, file}, reader.Series(r.Min, r.Max))
	info, statErr := file.Stat()
	if err = cmp.Or(err, statErr, file.Sync(), file.Close()); err == nil && samples > 0 {
		return samples, uint64(info.Size()), os.Rename(tmp, path)
	}
	return samples, 0, cmp.Or(err, os.Remove(tmp))
}

// contextWriter writes to a file until a context ends.
type contextWriter struct {
	ctx  context.Context
	file *os.File
}

// Write implements io.Writer.
func (w *contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.file.Write(b)
}
