package collector

import (
	"time"

	"github.com/go-kit/log/level"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/syncer"
	"opper_exporter/collector/usage"
)

// upstream identifies a list of traces. Counts of one are never added to those
// of another.
type upstream struct {
	URL, NameFilter string
}

// startOver counts from zero, as the state is of another upstream.
func (p *project) startOver() {
	level.Warn(p.logger).Log("msg", "upstream changed, counters restart from zero",
		"stored_url", p.upstream.URL, "url", p.cfg.UpstreamURL, "stored_name_filter", p.upstream.NameFilter, "name_filter", p.cfg.Opper.Name)
	p.initial.origin = otherUpstream
	p.countFromZero()
}

// isUnproven reports whether what was counted may be of another upstream than the
// one that is configured.
func (p *project) isUnproven() bool { return p.upstream != p.configured() }

func (p *project) configured() upstream {
	return upstream{URL: p.cfg.UpstreamURL, NameFilter: p.cfg.Opper.Name}
}

// commitProven commits that what is configured is the upstream of what is counted, which
// a sync has proven.
func (p *project) commitProven() bool {
	before := p.upstream
	if p.upstream = p.configured(); before != p.upstream {
		p.state.documentsAt = time.Time{}
	}
	if !p.commit() {
		p.upstream = before
		return false
	}
	switch {
	case before != p.upstream:
		level.Info(p.logger).Log("msg", "upstream changed to another URL of the same list", "stored_url", before.URL, "url", p.upstream.URL)
	case !p.snapshots.isPublished():
		p.logInitialSync()
	}
	return true
}

// countFromZero begins with an initial sync. What is on disk stays until that is
// complete.
func (p *project) countFromZero() {
	p.upstream, p.lastSuccess, p.state.isFresh = p.configured(), time.Time{}, true
	p.ledger = ledger.New(p.ledgerConfig())
	p.aggregates = aggregate.New(p.cfg.Aggregate, p.began)
	p.aggregates.Renewed = p.initial.origin == otherUpstream
	p.syncer = syncer.New(p.syncerConfig(), p.ledger)
	p.usage.set = usage.New(p.usageConfig())
}

// maxOpperProjects bounds the series of a key that sees a whole organization.
const maxOpperProjects = 100

// usageConfig returns that of the usage. After other usage was counted under the same
// series, all that there was would be taken for an increase.
func (p *project) usageConfig() usage.Config {
	lookback := p.cfg.InitialLookback
	if p.aggregates.Renewed {
		lookback = new(time.Duration)
	}
	return usage.Config{
		Project: p.cfg.Name, MaxModels: p.cfg.MaxModels, MaxOpperProjects: maxOpperProjects, ModelExpiry: p.cfg.Aggregate.NameExpiry,
		Lookback: lookback, Owners: p.deps.owners,
	}
}

func (p *project) ledgerConfig() ledger.Config {
	return ledger.Config{
		SettleDelay: p.cfg.SettleDelay, AbandonAfter: p.cfg.AbandonAfter, RecheckInterval: p.cfg.Interval, InitialLookback: p.cfg.InitialLookback, Wall: p.clock.Wall,
	}
}

func (p *project) syncerConfig() syncer.Config {
	return syncer.Config{
		Now: p.clock.Now, Interval: p.cfg.Interval, SweepInterval: p.cfg.SweepInterval, Concurrency: p.cfg.Concurrency,
		IsUnproven: p.isUnproven(), Key: func() string { return p.cfg.Opper.Key.Mark(p.cfg.Opper.Header) }, MaxTaken: p.deps.maxTaken,
		Logger: p.logger,
	}
}
