package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"opper_exporter/collector/ledger"
	"opper_exporter/collector/store"
)

// commit measures the transaction of a sync that meets 100 traces, on top of a
// million listed ones, and only the ledger's part of it. The floor writes as
// many bytes as the identifiers have and makes them durable; the plain way has
// a key for each identifier.
func (b *bench) commit(ctx context.Context) (err error) {
	traces := 1_000_000 / b.scale
	floor, err := os.Create(filepath.Join(b.dir, "floor"))
	if err != nil {
		return err
	}
	defer floor.Close() //nolint:errcheck // it is not read again
	plain, err := bbolt.Open(filepath.Join(b.dir, "plain.db"), 0o600, nil)
	if err != nil {
		return err
	}
	defer plain.Close() //nolint:errcheck // it is not read again
	state, err := store.Open(filepath.Join(b.dir, "commit"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()

	rng := rand.New(rand.NewPCG(3, 4))
	for at := 0; at < traces; at += 100_000 {
		if err := putIDs(plain, rng, min(100_000, traces-at)); err != nil {
			return err
		}
	}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	l := filled(traces)
	if err := state.Commit("default", changes(l), true); err != nil {
		return err
	}
	l.Committed()
	// A run of new rows ends with a row that is known.
	head := ledger.Row{ID: l.IDs(0, 1)[0], End: now}
	best, err := b.race(ctx, "commit",
		side{name: "floor", run: func(context.Context) error {
			if _, err := floor.Write(make([]byte, 100*len(ledger.ID{}))); err != nil {
				return err
			}
			return floor.Sync()
		}},
		side{name: "a key for each", run: func(context.Context) error { return putIDs(plain, rng, 100) }},
		side{name: "ours", prepare: func(context.Context) error {
			rows := newRows(rng, 100, now)
			l.Observe(ledger.Run{Rows: append(rows, head), AtStart: true, When: ledger.When{Asked: now, Read: now}}, &ledger.Events{})
			head = rows[0]
			return nil
		}, run: func(context.Context) error {
			if err := state.Commit("default", changes(l), false); err != nil {
				return err
			}
			l.Committed()
			return nil
		}})
	if err != nil {
		return err
	}
	b.table(fmt.Sprintf("A commit of 100 new traces onto %d listed ones", traces),
		[]string{"", "write and sync alone", "a key for each trace", "ours"},
		[][]string{{"commit", best[0].String(), best[1].String(), best[2].String()}})
	return nil
}

// changes returns the entries of a ledger that have changed.
func changes(l *ledger.Ledger) map[string][]byte {
	entries := map[string][]byte{}
	l.Changes(func(key string, body []byte) { entries[key] = body })
	return entries
}

func putIDs(db *bbolt.DB, rng *rand.Rand, n int) error {
	return db.Update(func(tx *bbolt.Tx) error {
		ids, err := tx.CreateBucketIfNotExists([]byte("ids"))
		for range n {
			if err != nil {
				return err
			}
			id := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, rng.Uint64()), rng.Uint64())
			err = ids.Put(id, []byte{1})
		}
		return err
	})
}
