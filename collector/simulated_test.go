package collector

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/simulation"
	"opper_exporter/collector/syncer"
	"opper_exporter/opper"
)

func TestSimulation(t *testing.T) { simulation.Random(t, simulated()) }

func TestSchedules(t *testing.T) { simulation.Named(t, simulated()) }

func FuzzSimulation(f *testing.F) { simulation.Fuzz(f, simulated()) }

func simulated() simulation.Target {
	cfg := testConfig().Project
	cfg.Aggregate.Costs = true
	return simulation.Target{Config: cfg, Open: openSimulated}
}

func openSimulated(cfg config.Project, deps simulation.Deps) (simulation.Project, error) {
	p, err := setup{
		Project: cfg,
		Deps:    Deps{Logger: deps.Logger, Store: deps.Store, AllRead: func(_ string, since time.Time) bool { return deps.AllRead(since) }, maxTaken: deps.MaxTaken},
		now:     deps.Now,
		source:  func(opper.Priority, time.Time) syncer.Source { return deps.Source },
	}.project(newInstrumentation(cfg.Name, cfg.NativeHistograms))
	if err != nil {
		return nil, err
	}
	p.syncer = observed{p.syncer, deps.Observe}
	return simulatedProject{p}, nil
}

// simulatedProject is a project without the goroutine that decides when it syncs.
type simulatedProject struct{ *project }

func (p simulatedProject) Sync(ctx context.Context) bool  { return p.sync(ctx) }
func (p simulatedProject) Sweep(ctx context.Context) bool { return p.sweep(ctx, time.Time{}) }
func (p simulatedProject) Published() []prometheus.Metric { return *p.snapshots.published.Load() }
func (p simulatedProject) Ledger() *ledger.Ledger         { return p.ledger }
func (p simulatedProject) CostsWaiting() int              { return p.aggregates.CostsWaiting() }

func (p simulatedProject) ApplyCosts(costs map[ledger.ID]aggregate.TraceCost) {
	p.aggregates.ApplyCosts(costs, p.clock.Now())
}
func (p simulatedProject) Syncer() simulation.Syncer { return p.syncer }

// observed passes on what it reads before the project applies it.
type observed struct {
	listSyncer
	observe func(ledger.Events)
}

func (r observed) Sync(ctx context.Context, src syncer.Source) iter.Seq2[syncer.Part, error] {
	return func(yield func(syncer.Part, error) bool) {
		for part, err := range r.listSyncer.Sync(ctx, src) {
			r.observe(part.Events)
			if !yield(part, err) {
				return
			}
		}
	}
}

func (r observed) Sweep(ctx context.Context, src syncer.Source) (ledger.Events, error) {
	ev, err := r.listSyncer.Sweep(ctx, src)
	r.observe(ev)
	return ev, err
}
