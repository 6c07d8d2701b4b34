package ledger

import (
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
