package oppertest

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Model is what an agent calls.
type Model struct {
	Name          string
	Input, Output int64 // prices of a token, in 10⁻⁹ US dollars
}

// call adds the calls of a trace to the server's usage, which share its tokens, and
// maybe one without a trace. Random numbers of their own leave those of the traces
// as they are without calls.
func (t *Traffic) call(a *Agent, id string, at time.Time, length time.Duration, tokens int64) {
	if t.server.cfg.Usage == nil || a.Model.Name == "" {
		return
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // it never fails
	rng := rand.New(rand.NewPCG(t.seed, h.Sum64()))
	add := func(at time.Time, trace string, tokens int64) {
		c := Call{Time: at, Model: &a.Model.Name, Project: t.server.cfg.Project, Trace: trace}
		c.InputTokens = int64(float64(tokens) * (0.6 + 0.3*rng.Float64()))
		c.OutputTokens = tokens - c.InputTokens
		c.Cost = c.InputTokens*a.Model.Input + c.OutputTokens*a.Model.Output
		t.usage = append(t.usage, c)
	}
	left := tokens
	for i := 1 + rng.IntN(4); i > 0; i-- {
		share := left
		if i > 1 {
			share = rng.Int64N(left + 1)
		}
		left -= share
		add(at.Add(seconds(length.Seconds()*rng.Float64())), id, share)
	}
	if rng.Float64() < a.Untraced {
		add(at, "", tokens)
	}
	t.server.usage.addAt(at, t.usage)
	t.usage = t.usage[:0]
}
