package ledger

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

func num(n int) ID {
	var id ID
	id[15], id[14], id[13] = byte(n), byte(n>>8), byte(n>>16)
	return id
}

// The order behaves like a plain slice, whatever is done to it.
func TestOrderLikeSlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	o, model := newOrder(), []ID{}
	next := 0
	front := make([]ID, 2*chunkSize)
	for i := range front {
		next++
		front[i] = num(next)
	}
	for _, id := range front { // one by one, so that the front has full chunks
		o.insert(0, []ID{id})
		model = slices.Insert(model, 0, id)
	}
	for range 1000 {
		switch i := rng.IntN(len(model) + 1); rng.IntN(4) {
		case 0: // a batch at either end
			if rng.IntN(2) == 0 {
				i = 0
			} else {
				i = len(model)
			}
			fallthrough
		case 1:
			ids := make([]ID, rng.IntN(100))
			for k := range ids {
				next++
				ids[k] = num(next)
			}
			o.insert(i, ids)
			model = slices.Insert(model, i, ids...)
		default:
			j := min(len(model), i+rng.IntN(60))
			o.remove(i, j)
			model = slices.Delete(model, i, j)
		}
		if o.len() != len(model) {
			t.Fatalf("len %d, want %d", o.len(), len(model))
		}
		i := rng.IntN(len(model) + 1)
		j := i + rng.IntN(len(model)+1-i)
		if got := o.slice(i, j); !slices.Equal(got, model[i:j]) {
			t.Fatalf("slice(%d, %d) differs", i, j)
		}
		if i < len(model) && o.index(model[i]) != i {
			t.Fatalf("index of %d is %d", i, o.index(model[i]))
		}
	}
	if got := o.slice(0, o.len()); !slices.Equal(got, model) {
		t.Fatal("order differs from the model")
	}
	if o.index(num(next+1)) != -1 {
		t.Fatal("an id that is not in the order has an index")
	}
	for _, c := range o.chunks {
		if len(c.ids) == 0 || len(c.ids) > chunkSize {
			t.Fatalf("a chunk of %d", len(c.ids))
		}
	}
}

// What is put into the middle, page after page, writes few other chunks again.
func TestBurstWritesNoOtherChunks(t *testing.T) {
	const listed, burst, page = 100_000, 50_000, 90
	o := newOrder()
	o.insert(0, numbers(0, listed))
	clear(o.dirty)
	for n := 0; n < burst; n += page {
		o.insert(listed/2+n, numbers(listed+n, page))
	}
	if got, most := len(o.dirty), burst/chunkSize+20; got > most {
		t.Errorf("a burst of %d ids wrote %d chunks, expected at most %d", burst, got, most)
	}
	checkKeys(t, o)
}

// Where no key is left between two chunks, all get others.
func TestKeysRiseWherePlacesAreUsedAgain(t *testing.T) {
	o := newOrder()
	o.insert(0, numbers(0, 10*chunkSize))
	clear(o.dirty)
	for n := range 100 * chunkSize {
		o.insert(5*chunkSize+1, []ID{num(10*chunkSize + n)})
	}
	if len(o.dirty) < len(o.chunks) {
		t.Fatalf("%d of %d chunks were written, so none got another key", len(o.dirty), len(o.chunks))
	}
	checkKeys(t, o)
}

func numbers(from, n int) []ID {
	ids := make([]ID, n)
	for i := range ids {
		ids[i] = num(from + i)
	}
	return ids
}

func checkKeys(t *testing.T, o *order) {
	t.Helper()
	if !slices.IsSortedFunc(o.chunks, func(a, b *chunk) int { return cmp.Compare(a.key, b.key) }) {
		t.Error("the keys of the chunks do not rise along the list")
	}
	seen := map[uint64]bool{}
	for _, c := range o.chunks {
		if seen[c.key] {
			t.Errorf("two chunks have the key %d", c.key)
		}
		seen[c.key] = true
	}
}
