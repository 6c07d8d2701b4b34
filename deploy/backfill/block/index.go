package block

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// indexed is a series in an index.
type indexed struct {
	labels labels.Labels
	chunks []chunks.Meta
}

// writeIndex writes the index of series that are sorted by labels.
func writeIndex(ctx context.Context, file string, series []indexed) (err error) {
	w, err := index.NewWriter(ctx, file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	symbols := map[string]struct{}{}
	for i := range series {
		series[i].labels.Range(func(l labels.Label) { symbols[l.Name], symbols[l.Value] = struct{}{}, struct{}{} })
	}
	for _, s := range slices.Sorted(maps.Keys(symbols)) {
		if err := w.AddSymbol(s); err != nil {
			return err
		}
	}
	for i := range series {
		if err := w.AddSeries(storage.SeriesRef(i), series[i].labels, series[i].chunks...); err != nil {
			return err
		}
	}
	return nil
}
