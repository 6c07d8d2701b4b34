// Package block writes blocks of Prometheus' storage.
package block

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/fileutil"
	"github.com/prometheus/prometheus/tsdb/tombstones"

	"opper_exporter/deploy/backfill/history"
)

// tmpSuffix is Prometheus' own, which removes such directories when it starts.
const tmpSuffix = ".tmp-for-creation"

// Write writes the block of [mint, maxt) into a directory, and returns its meta.json and how
// many bytes it has. It appears when it is whole; there is none if there are no samples.
func Write(ctx context.Context, dir string, mint, maxt int64, series iter.Seq[history.Series]) (meta tsdb.BlockMeta, size int64, err error) {
	id, err := ulid.New(ulid.Now(), rand.Reader)
	if err != nil {
		return meta, 0, err
	}
	meta = tsdb.BlockMeta{ULID: id, MinTime: mint, MaxTime: maxt, Version: 1}
	meta.Compaction.Level, meta.Compaction.Sources = 1, []ulid.ULID{id}
	tmp := filepath.Join(dir, id.String()+tmpSuffix)
	defer func() {
		if err = errors.Join(err, os.RemoveAll(tmp)); err != nil {
			err = fmt.Errorf("block from %s: %w", time.UnixMilli(mint).UTC().Format(time.RFC3339), err)
		}
	}()
	if size, err = write(ctx, tmp, series, &meta); err != nil || meta.Stats.NumSamples == 0 {
		return tsdb.BlockMeta{}, 0, err
	}
	// This syncs dir, too.
	if err := fileutil.Rename(tmp, filepath.Join(dir, id.String())); err != nil {
		return tsdb.BlockMeta{}, 0, err
	}
	return meta, size, nil
}

// write writes a whole block, and syncs it.
func write(ctx context.Context, dir string, series iter.Seq[history.Series], meta *tsdb.BlockMeta) (size int64, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a server may run as another user
		return 0, err
	}
	written, err := writeChunks(ctx, filepath.Join(dir, "chunks"), series, &meta.Stats)
	if err != nil || len(written) == 0 {
		return 0, err
	}
	if err := writeIndex(ctx, filepath.Join(dir, "index"), written); err != nil {
		return 0, err
	}
	if _, err := tombstones.WriteFile(slog.New(slog.DiscardHandler), dir, tombstones.NewMemTombstones()); err != nil {
		return 0, err
	}
	if err := writeMeta(filepath.Join(dir, "meta.json"), meta); err != nil {
		return 0, err
	}
	d, err := fileutil.OpenDir(dir)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return 0, err
	}
	return fileutil.DirSize(dir)
}

func writeMeta(file string, meta *tsdb.BlockMeta) error {
	text, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
