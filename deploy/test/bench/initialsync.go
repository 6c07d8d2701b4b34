package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"opper_exporter/collector/store"
)

// initialSync measures the initial sync of 100 000 traces over loopback. There are two
// floors: one reads a page after the other, as the plain way does, and one as
// many at once as we do.
func (b *bench) initialSync(ctx context.Context) error {
	var rows [][]string
	for _, c := range []struct {
		name string
		body int
	}{{"2 × 2 kB bodies", 2000}, {"no bodies", 0}} {
		traces := 100_000 / b.scale
		url, stop, err := served(ctx, listConfig{traces: traces, body: c.body, kind: prose, names: 40})
		if err != nil {
			return err
		}
		row, err := b.initialSyncOf(ctx, c.name, url, traces)
		if err == nil && c.body > 0 && b.profile != "" {
			err = b.profiled(func() error {
				return repeated(b.rounds, func() error { return runInitialSync(ctx, url, "", false) })(ctx)
			})
		}
		stop()
		if err != nil {
			return err
		}
		rows = append(rows, row...)
	}
	b.table(fmt.Sprintf("Initial sync of %d traces, and in brackets the processor time without the server's", 100_000/b.scale),
		[]string{"", "download by page", "download, 4 at once", "plain", "ours", "plain / by page", "ours / by page", "ours / 4 at once", "goal"}, rows)
	return nil
}

func (b *bench) initialSyncOf(ctx context.Context, name, url string, traces int) ([][]string, error) {
	byPage, floor := newDownload(url, 1), newDownload(url, concurrency)
	dir := ""
	first := func(stored bool) func(context.Context) error {
		return func(ctx context.Context) error { return runInitialSync(ctx, url, dir, stored) }
	}
	best, err := b.race(ctx, "initial sync, "+name,
		side{name: "download by page", run: func(ctx context.Context) error { return byPage.pages(ctx, every(traces)) }},
		side{name: "download", run: func(ctx context.Context) error { return floor.pages(ctx, every(traces)) }},
		side{name: "plain", run: func(ctx context.Context) error { return newPlain().readAll(ctx, &byPage.client, url) }},
		side{name: "ours", run: first(false)},
		side{name: "ours, stored", run: first(true), prepare: func(context.Context) (err error) {
			dir, err = os.MkdirTemp(b.dir, "state-")
			return err
		}},
	)
	if err != nil {
		return nil, err
	}
	goals := []string{"2 ×", "2.5 ×"}
	if name == "no bodies" {
		goals = []string{"", ""}
	}
	row := func(what string, ours cost, goal string) []string {
		return []string{
			name + ", " + what, best[0].String(), best[1].String(), best[2].String(), ours.String(),
			ratio(best[2].took, best[0].took), ratio(ours.took, best[0].took), ratio(ours.took, best[1].took), goal,
		}
	}
	return [][]string{row("nothing stored", best[3], goals[0]), row("with state on disk", best[4], goals[1])}, nil
}

// runInitialSync is all of an initial sync, until its numbers can be scraped.
func runInitialSync(ctx context.Context, url, dir string, stored bool) (err error) {
	if !stored {
		o, err := newOurs(url, nil)
		if err != nil {
			return err
		}
		defer o.stop()
		return o.run(ctx)
	}
	state, err := store.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	o, err := newOurs(url, state)
	if err != nil {
		return err
	}
	defer o.stop()
	return o.run(ctx)
}
