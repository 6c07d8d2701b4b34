package block

import (
	"context"
	"errors"
	"iter"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"opper_exporter/deploy/backfill/history"
)

const (
	// chunkSamples is how many samples of a chunk Prometheus aims at. It takes up to twice as
	// many rather than begin a chunk of a few.
	chunkSamples = 120
	// segmentSize is allocated in advance, and cut when it is written: Prometheus' own 512 MiB
	// are more than a disk need have room for.
	segmentSize = 1 << 20
)

// writeChunks writes the chunks of series and returns where they are.
func writeChunks(ctx context.Context, dir string, series iter.Seq[history.Series], stats *tsdb.BlockStats) (written []indexed, err error) {
	to, err := chunks.NewWriter(dir, chunks.WithSegmentSize(segmentSize))
	if err != nil {
		return nil, err
	}
	for s := range series {
		if err = ctx.Err(); err != nil {
			break
		}
		var metas []chunks.Meta
		if s.Native {
			metas, err = histogramChunks(&s)
		} else {
			metas, err = floatChunks(&s)
		}
		if err == nil {
			err = to.WriteChunks(metas...)
		}
		if err != nil {
			break
		}
		for i := range metas {
			samples := uint64(metas[i].Chunk.NumSamples())
			metas[i].Chunk = nil
			stats.NumSamples += samples
			if s.Native {
				stats.NumHistogramSamples += samples
			} else {
				stats.NumFloatSamples += samples
			}
		}
		if len(metas) > 0 {
			stats.NumSeries++
			stats.NumChunks += uint64(len(metas))
			written = append(written, indexed{s.Labels, metas})
		}
	}
	return written, errors.Join(err, to.Close())
}

// limit returns how many samples the chunks of a series have, at most.
func limit(s *history.Series) int {
	n := s.Len()
	chunks := max(n/chunkSamples, 1)
	return (n + chunks - 1) / chunks
}

func floatChunks(s *history.Series) (out []chunks.Meta, err error) {
	var chunk *chunkenc.XORChunk
	var app chunkenc.Appender
	n, limit := 0, limit(s)
	for t, v := range s.Floats() {
		if chunk == nil || n == limit || len(chunk.Bytes()) > chunkenc.MaxBytesPerXORChunkBeforeAppend {
			chunk, n = chunkenc.NewXORChunk(), 0
			if app, err = chunk.Appender(); err != nil {
				return nil, err
			}
			out = append(out, chunks.Meta{Chunk: chunk, MinTime: t})
		}
		app.Append(0, t, v)
		out[len(out)-1].MaxTime = t
		n++
	}
	return out, nil
}

func histogramChunks(s *history.Series) (out []chunks.Meta, err error) {
	var chunk *chunkenc.HistogramChunk
	// With the appender before it, a chunk says that no counter was reset. The first of a
	// block leaves that to who reads it.
	var app, before chunkenc.Appender
	n, limit := 0, limit(s)
	for t, h := range s.Histograms() {
		if chunk == nil || n == limit || len(chunk.Bytes()) >= chunkenc.TargetBytesPerHistogramChunk && n >= chunkenc.MinSamplesPerHistogramChunk {
			before = app
			chunk, n = chunkenc.NewHistogramChunk(), 0
			if app, err = chunk.Appender(); err != nil {
				return nil, err
			}
			out = append(out, chunks.Meta{Chunk: chunk, MinTime: t})
		}
		if _, _, app, err = app.AppendHistogram(before, 0, t, h, true); err != nil {
			return nil, err
		}
		out[len(out)-1].MaxTime = t
		n++
	}
	return out, nil
}
