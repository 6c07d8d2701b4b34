// Command textparse reads an exposition from its standard input, as Prometheus
// reads a scrape with the content type that is its argument, and writes as JSON
// what it found. It ends with an error for whatever makes a server drop the
// scrape or a part of it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// result is what the command writes. Times are in milliseconds since 1970.
type result struct {
	Series    int
	Exemplars []int64 // their times
	Created   []int64 // of counters and histograms
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: textparse CONTENT-TYPE < EXPOSITION")
		os.Exit(2)
	}
	text, err := io.ReadAll(os.Stdin)
	var r *result
	if err == nil {
		r, err = parse(text, os.Args[1])
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "textparse: error: %s\n", err)
		os.Exit(1)
	}
}

func parse(text []byte, contentType string) (*result, error) {
	p, err := textparse.New(text, contentType, labels.NewSymbolTable(), textparse.ParserOptions{
		KeepClassicOnClassicAndNativeHistograms: true,
		OpenMetricsSkipSTSeries:                 true,
	})
	if err != nil {
		return nil, err
	}
	r := &result{}
	seen := map[string]bool{}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		var l labels.Labels
		switch entry {
		case textparse.EntrySeries:
			p.Labels(&l)
		case textparse.EntryHistogram:
			p.Labels(&l)
			_, _, h, _ := p.Histogram()
			if h == nil {
				return nil, fmt.Errorf("%s: not an integer histogram", l)
			}
			if err := h.Validate(); err != nil {
				return nil, fmt.Errorf("%s: %w", l, err)
			}
		default:
			continue
		}
		key := fmt.Sprint(entry, l)
		if seen[key] {
			return nil, fmt.Errorf("%s: more than one sample", l)
		}
		seen[key] = true
		r.Series++
		var e exemplar.Exemplar
		for p.Exemplar(&e) {
			if e.HasTs {
				r.Exemplars = append(r.Exemplars, e.Ts)
			}
			e = exemplar.Exemplar{}
		}
		if created := p.StartTimestamp(); created != 0 {
			r.Created = append(r.Created, created)
		}
	}
}
