package ledger

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// save adds what has changed in a ledger to what is stored of it.
func save(l *Ledger, stored map[string][]byte) {
	l.Changes(func(key string, body []byte) {
		if stored[key] = body; body == nil {
			delete(stored, key)
		}
	})
	l.Committed()
}

func restore(t *testing.T, cfg Config, stored map[string][]byte, now time.Time) *Ledger {
	t.Helper()
	l := New(cfg)
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		if err := l.Restore(key, stored[key]); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
	}
	if err := l.EndRestore(now); err != nil {
		t.Fatal(err)
	}
	return l
}

// What arrives together is stored together, whatever its ids, also after a restart: each
// page of a store that a commit writes takes memory.
func TestPendingTracesAreStoredByArrival(t *testing.T) {
	stored, last := map[string][]byte{}, ""
	cfg := Config{SettleDelay: settle, AbandonAfter: abandon}
	l := New(cfg)
	l.EndInitialSync()
	for burst := range 5 {
		var rows []Row
		for i := range 300 {
			rows = append(rows, open(1000*burst+i*7919%1000))
		}
		l.Observe(Run{Rows: rows, AtStart: true, When: When{epoch, epoch}}, new(Events))
		var keys []string
		l.Changes(func(key string, _ []byte) {
			if key[:1] == kindPending {
				keys = append(keys, key)
			}
		})
		save(l, stored)
		slices.Sort(keys)
		if n := len(keys); n != 300 || keys[0] <= last || keys[n-1] != kindPending+bigEndian(uint64(300*(burst+1))) {
			t.Fatalf("burst %d: %d keys of %q to %q, after %q", burst, n, keys[0], keys[n-1], last)
		}
		last = keys[len(keys)-1]
		l = restore(t, cfg, stored, epoch)
	}
}

// A pending trace that is forgotten, and seen again and counted before that is saved, is not
// pending any more.
func TestForgottenTraceIsNotRestored(t *testing.T) {
	b, stored := newBook(t, 0), map[string][]byte{}
	b.list(0, open(1), ended(2))
	save(b.Ledger, stored)
	b.is(b.Delist(num(1)), "vanished 1")
	b.is(b.list(look, ended(1), ended(2)), "seen 1")
	b.is(b.list(look+settle, ended(1), ended(2)), "counted 1 counted 2")
	save(b.Ledger, stored)
	b.Ledger = restore(t, b.cfg, stored, epoch.Add(abandon))
	b.is(b.list(abandon, ended(1), ended(2)), "")
	b.is(b.list(2*abandon, ended(1), ended(2)), "")
}

// A ledger that is saved and restored after any step goes on as if nothing had
// happened, though only what has changed is saved.
func TestRestoreAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	cfg := Config{SettleDelay: 30 * time.Second, AbandonAfter: time.Hour, RecheckInterval: time.Second}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := New(cfg)
	stored := map[string][]byte{}
	var list []Row
	next, counted := 0, map[ID]int{}
	for step := range 600 {
		now = now.Add(time.Duration(rng.IntN(60)) * time.Second)
		for range rng.IntN(12) {
			next++
			r := Row{ID: num(next), Name: "n", Start: now}
			if rng.IntN(3) > 0 {
				r.End = now
			}
			list = slices.Insert(list, rng.IntN(min(len(list), 3)+1), r)
		}
		for range rng.IntN(4) {
			if i := rng.IntN(len(list) + 1); i < len(list) {
				if list[i].End.IsZero() {
					list[i].End = now
				} else {
					list = slices.Delete(list, i, i+1)
				}
			}
		}
		list = list[:min(len(list), 700)]
		i := rng.IntN(len(list) + 1)
		j := min(len(list), i+100)
		if rng.IntN(3) == 0 {
			i = 0
		}
		var ev Events
		l.Observe(Run{Rows: list[i:j], AtStart: i == 0, AtEnd: j == len(list), When: When{now, now}}, &ev)
		if step == 100 {
			l.EndInitialSync()
		}
		if rng.IntN(50) == 0 {
			l.EndFullScan(now, now)
		}
		for _, d := range l.Due(now, maxDue) {
			if d.Index < 0 {
				l.Delist(d.ID, &ev)
			}
		}
		for _, c := range ev.Counted {
			counted[c.ID]++
			if counted[c.ID] > 1 {
				t.Fatalf("step %d: %s counted again", step, c.ID)
			}
		}
		if rng.IntN(3) == 0 { // else the changes add up
			save(l, stored)
		}
		if rng.IntN(5) > 0 {
			continue
		}
		save(l, stored)
		before := l
		l = restore(t, cfg, stored, now)
		if !slices.Equal(l.IDs(0, l.Listed()), before.IDs(0, before.Listed())) || l.delisted.len() != before.delisted.len() || l.pending.table.used != before.pending.table.used || len(l.abandoned) != len(before.abandoned) {
			t.Fatalf("step %d: restored %d listed, %d delisted, %d pending, %d abandoned; want %d, %d, %d, %d", step,
				l.Listed(), l.delisted.len(), l.pending.table.used, len(l.abandoned), before.Listed(), before.delisted.len(), before.pending.table.used, len(before.abandoned))
		}
		for i, c := range before.delisted.chunks {
			if got := l.delisted.chunks[i].missed; !got.Equal(c.missed) {
				t.Fatalf("step %d: chunk %d was missed at %v, want %v", step, i, got, c.missed)
			}
		}
		for _, id := range before.delisted.slice(0, before.delisted.len()) {
			if !l.delisted.has(id) {
				t.Fatalf("step %d: %s is not known to be delisted", step, id)
			}
		}
	}
	if len(counted) < 500 {
		t.Fatalf("only %d counted", len(counted))
	}
}

// A pending trace is restored with all that was known of it, and so is what belongs
// to no trace.
func TestRestorePending(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	now := time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)
	l, stored, want := New(Config{}), map[string][]byte{}, map[ID]*Pending{}
	l.unreadable, l.initialSync = 7, false
	for i := range 2000 {
		p := randomPending(rng, num(i))
		l.put(p)
		want[p.Row.ID] = p
	}
	save(l, stored)
	got := restore(t, Config{}, stored, now)
	if got.unreadable != 7 || got.initialSync {
		t.Errorf("restored %d unreadable rows, initial sync: %v", got.unreadable, got.initialSync)
	}
	for id, p := range want {
		p.unstored = false
		for name, back := range map[string]*Pending{"saved": l.pending.get(id), "restored": got.pending.get(id)} {
			if !reflect.DeepEqual(back, p) {
				t.Fatalf("%s: %+v, want %+v", name, back, p)
			}
		}
	}
}

// FuzzRestore restores a ledger from arbitrary entries, each the length of its
// key, that of its body, and both. Whatever is not refused can be used.
func FuzzRestore(f *testing.F) {
	entry := func(key string, body []byte) []byte {
		return append(append([]byte{byte(len(key)), byte(len(body))}, key...), body...)
	}
	rng := rand.New(rand.NewPCG(32, 1))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := New(Config{})
	l.initialSync, l.unreadable = false, 3
	for i := range 3 {
		p := randomPending(rng, num(i))
		p.Row.Name, p.Row.Status, p.Row.Ref = "n", "s", "r"
		l.put(p)
		l.order.insert(i, []ID{num(i)})
		l.delisted.push(num(i + 2)) // of which one is listed too
		l.setAbandoned(num(i), true)
	}
	stored := map[string][]byte{}
	save(l, stored)
	var all []byte
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		all = append(all, entry(key, stored[key])...)
		f.Add(entry(key, stored[key]))
		f.Add(entry(key, stored[key][:len(stored[key])/2]))
	}
	f.Add(append(all, all...)) // ids stand twice in the list
	f.Fuzz(func(_ *testing.T, data []byte) {
		l := New(Config{SettleDelay: time.Second, AbandonAfter: time.Hour})
		for len(data) >= 2 {
			n, m := int(data[0]), int(data[1])
			data = data[2:]
			if n+m > len(data) || l.Restore(string(data[:n]), data[n:n+m]) != nil {
				return
			}
			data = data[n+m:]
		}
		if l.EndRestore(now) != nil {
			return
		}
		l.Due(now, maxDue)
		l.IDs(0, l.Listed())
		l.EndFullScan(now, now)
		l.EndFullScan(now.Add(72*time.Hour), now.Add(72*time.Hour))
		save(l, map[string][]byte{})
	})
}
