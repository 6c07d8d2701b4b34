package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// sync measures syncs after the initial sync, over a short list, a long one and one
// with bodies, with nothing stored. The floor downloads whole pages at both ends;
// the plain way reads the whole list.
func (b *bench) sync(ctx context.Context) error {
	var rows [][]string
	for _, c := range []listConfig{{traces: 1000}, {traces: 1_000_000 / b.scale}, {traces: 100_000 / b.scale, body: 2000, kind: prose}} {
		c.spare, c.names = 100*pageSize, 40
		url, stop, err := served(ctx, c)
		if err != nil {
			return err
		}
		more, err := b.syncOver(ctx, url, c)
		stop()
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	b.table("A sync, and in brackets its processor time without the server's",
		[]string{"", "requests", "kB", "download alone", "plain", "ours"}, rows)
	return nil
}

func (b *bench) syncOver(ctx context.Context, url string, c listConfig) ([][]string, error) {
	traces := c.traces
	o, err := newOurs(url, nil)
	if err != nil {
		return nil, err
	}
	defer o.stop()
	if err := o.run(ctx); err != nil {
		return nil, err
	}
	floor := newDownload(url, 1)
	grow := func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/grow", nil)
		if err != nil {
			return err
		}
		response, err := floor.client.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	sent := func(ctx context.Context) (int64, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/sent", nil)
		if err != nil {
			return 0, err
		}
		response, err := floor.client.Do(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(string(text), 10, 64)
	}
	var before, sentBefore int64 // requests and bytes
	// The second sync after new traces counts them.
	settle := func(ctx context.Context) error {
		if err := o.sync(ctx); err != nil {
			return err
		}
		if before, err = o.requests(); err != nil {
			return err
		}
		sentBefore, err = sent(ctx)
		return err
	}
	row := func(name string, costs []cost) ([]string, error) {
		after, err := o.requests()
		if err != nil {
			return nil, err
		}
		bytes, err := sent(ctx)
		of := fmt.Sprintf("%s, %d listed", name, traces)
		if c.body > 0 {
			of += ", 2 × 2 kB bodies"
		}
		return []string{of, strconv.FormatInt(after-before, 10), fmt.Sprintf("%.1f", float64(bytes-sentBefore)/1000), costs[0].String(), costs[1].String(), costs[2].String()}, err
	}
	last := max(traces-10, 0)
	full := side{name: "plain", once: true, run: func(ctx context.Context) error { return newPlain().readAll(ctx, &floor.client, url) }}
	idle, err := b.race(ctx, fmt.Sprintf("idle sync over %d", traces),
		side{name: "download", run: func(ctx context.Context) error { return floor.pages(ctx, []int{0, last}) }},
		full, side{name: "ours", run: o.sync, prepare: settle})
	if err != nil {
		return nil, err
	}
	idleRow, err := row("idle", idle)
	if err != nil {
		return nil, err
	}
	fresh, err := b.race(ctx, fmt.Sprintf("sync with new traces over %d", traces),
		side{name: "download", run: func(ctx context.Context) error { return floor.pages(ctx, []int{0, pageSize, last}) }},
		full, side{name: "ours", run: o.sync, prepare: func(ctx context.Context) error {
			if err := settle(ctx); err != nil {
				return err
			}
			return grow(ctx)
		}})
	if err != nil {
		return nil, err
	}
	freshRow, err := row("100 new traces", fresh)
	return [][]string{idleRow, freshRow}, err
}

// awhile is how long a process may take for what it is waited for.
const awhile = 10 * time.Minute
