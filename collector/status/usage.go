package status

import "time"

// Usage is what the calls of a project cost, as it is in the metrics, and its budget.
type Usage struct {
	Since  time.Time // when counting of the models began; zero before
	Models []Model   // in any order
	// Expired is what was counted of models that have expired.
	Expired Model
	Reads   []UsageRead // of each kind
	// IsUndecided says that usage was read, and not yet counted, as it may be that of
	// another project.
	IsUndecided bool
	Budget      *Budget // nil until it has been read

	CostsWaiting int    // counted traces whose cost is not final yet
	CostsUnknown uint64 // counted traces without a final cost
}

// Model is what calls of a model cost.
type Model struct {
	Name         string
	OpperProject string // empty for the project's own
	Cost         int64  // nanodollars
	Calls        int64
}

// UsageRead says how reading one kind of usage goes.
type UsageRead struct {
	Kind        string // as in the label kind
	Up          bool   // opper_usage_up
	Refused     bool   // by Opper, and so asked for only once an hour
	LastSuccess time.Time
	LastError   string // of the last read; empty if it succeeded, or if there was none
}

// Dollar is a US dollar in nanodollars.
const Dollar = 1_000_000_000

// NearLimit is the share of the limit from which on spending is worth a notice.
const NearLimit = 0.8

// Budget is what Opper says of this calendar month, in US cents. Any part of it may
// be missing.
type Budget struct {
	SpentCents, LimitCents int64
	HasSpent, HasLimit     bool
	Blocked, HasBlocked    bool
}
