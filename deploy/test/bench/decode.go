package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"opper_exporter/opper"
)

// decode measures one page of 100 traces from memory to its values. The floor
// reads the same bytes in large pieces.
func (b *bench) decode(ctx context.Context) error {
	var rows [][]string
	for _, c := range []struct {
		name string
		list listConfig
	}{
		{"no bodies", listConfig{}},
		{"2 × 2 kB, prose", listConfig{body: 2000, kind: prose}},
		{"2 × 2 kB, letters alone", listConfig{body: 2000, kind: letters}},
		{"2 × 2 kB, escapes", listConfig{body: 2000, kind: escapes}},
		{"2 × 2 kB, UTF-8", listConfig{body: 2000, kind: scripts}},
		{"2 × 100 kB, prose", listConfig{body: 100_000, kind: prose}},
	} {
		c.list.traces, c.list.names = pageSize, 10
		parts := newList(c.list).page(0, pageSize)
		body := bytes.Join(parts[:], nil)
		n := max(1, 16<<20/len(body)) // so that each side takes some milliseconds
		buf := make([]byte, 64<<10)
		sides := []side{
			{name: "floor", run: repeated(n, func() error {
				r := struct{ io.Reader }{bytes.NewReader(body)}
				for {
					if _, err := r.Read(buf); errors.Is(err, io.EOF) {
						return nil
					}
				}
			})},
			{name: "encoding/json", run: repeated(n, func() error {
				var page plainPage
				return json.NewDecoder(bytes.NewReader(body)).Decode(&page)
			})},
			{name: "ours", run: repeated(n, func() error {
				_, err := opper.DecodePage(bytes.NewReader(body), pageSize)
				return err
			})},
			{name: "jsontext", run: tokens(n, body)},
		}
		best, err := b.race(ctx, "decode "+c.name, sides...)
		if err != nil {
			return err
		}
		speed := func(took time.Duration) string {
			if took == 0 {
				return "–"
			}
			return fmt.Sprintf("%.3g", float64(len(body))*float64(n)/took.Seconds()/1e6)
		}
		row := []string{c.name, speed(best[0].took), speed(best[3].took), speed(best[1].took), speed(best[2].took), ratio(best[1].took, best[2].took)}
		for _, s := range sides[1:3] {
			row = append(row, fmt.Sprintf("%.3g", allocations(ctx, s, n*pageSize)))
		}
		rows = append(rows, row)
	}
	b.table("Decoding a page of 100 traces, in MB/s, and allocations for each trace",
		[]string{"bodies", "read", "jsontext tokens", "encoding/json", "ours", "ours is faster by", "its allocations", "our allocations"}, rows)
	return nil
}

// allocations returns how many a side makes for each of n things.
func allocations(ctx context.Context, s side, n int) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = s.run(ctx) // it has run before
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}
