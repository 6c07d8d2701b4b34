package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// sync measures syncs after the initial sync, over a short and a long list, with
// nothing stored. The floor downloads as many pages as we do; the plain way
// reads the whole list.
func (b *bench) sync(ctx context.Context) error {
	var rows [][]string
	for _, traces := range []int{1000, 1_000_000 / b.scale} {
		url, stop, err := served(ctx, listConfig{traces: traces, spare: 100 * pageSize, names: 40})
		if err != nil {
			return err
		}
		more, err := b.syncOver(ctx, url, traces)
		stop()
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	b.table("A sync, and in brackets its processor time without the server's",
		[]string{"", "requests", "download alone", "plain", "ours"}, rows)
	return nil
}

func (b *bench) syncOver(ctx context.Context, url string, traces int) ([][]string, error) {
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
	var before int64 // requests
	// The second sync after new traces counts them.
	settle := func(ctx context.Context) error {
		if err := o.sync(ctx); err != nil {
			return err
		}
		before, err = o.requests()
		return err
	}
	row := func(name string, costs []cost) ([]string, error) {
		after, err := o.requests()
		return []string{fmt.Sprintf("%s, %d listed", name, traces), strconv.FormatInt(after-before, 10), costs[0].String(), costs[1].String(), costs[2].String()}, err
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
