// Package simulation drives a project through schedules of all that happens to a
// list of traces, to requests, to a disk and to a process, and checks that its
// promises are kept at each step. It gives a project its dependencies and compares
// what it publishes and persists with the ground truth.
package simulation

import (
	"context"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"opper_exporter/collector/aggregate"
	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/syncer"
)

// Target says how to open the projects that schedules drive.
type Target struct {
	Config config.Project // of each project, but for what a schedule chooses
	Open   func(config.Project, Deps) (Project, error)
}

// Project syncs when it is asked to, in the goroutine of the caller.
type Project interface {
	// Sync runs one sync, and reports whether Opper answered.
	Sync(ctx context.Context) bool
	// Sweep reads a page of a sweep, and reports whether another one may follow.
	Sweep(ctx context.Context) bool
	// ApplyCosts takes in what one read of usage says of traces.
	ApplyCosts(costs map[ledger.ID]aggregate.TraceCost)
	// CostsWaiting returns how many counted traces wait for their cost.
	CostsWaiting() int
	// Published returns the snapshot that is published.
	Published() []prometheus.Metric
	// Ledger and Syncer say what the project knows about the list: a schedule
	// demands no more than can be known.
	Ledger() *ledger.Ledger
	Syncer() Syncer
}

// Syncer is the part of a syncer.Syncer that says what it knows.
type Syncer interface {
	IsBehind() bool
	IsSweepDue() bool
	IsUnsorted() bool
	State() ([]byte, error)
}

// Deps are what a project depends on.
type Deps struct {
	Logger   log.Logger
	MaxTaken int // see syncer.Config
	Now      func() time.Time
	Source   syncer.Source
	Store    Store
	AllRead  func(since time.Time) bool
	Observe  func(ledger.Events) // called with what the project has read, before it is applied
}

// Store is a collector.Store.
type Store interface {
	Load(project string, visit func(key string, body []byte) error) (bool, error)
	Commit(project string, changes map[string][]byte, fresh bool) error
	Projects() ([]string, error)
}
