package check

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"opper_exporter/collector"
	"opper_exporter/collector/store"
)

// State says whether the state is of the list that was read.
type State struct {
	Path     string     `json:"path,omitempty"` // empty if persistence is disabled
	Result   string     `json:"result"`
	Known    int        `json:"known_traces"` // of those that were read
	Listed   int        `json:"listed"`       // traces that are believed to be listed
	LastSync *time.Time `json:"last_sync,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// The results of comparing the state with the list.
const (
	stateUnread   = "not compared" // nothing was read
	stateDisabled = "disabled"
	stateNone     = "none"
	stateInUse    = "in use"
	stateUnusable = "unusable"
	stateSame     = "same list"
	stateOther    = "other upstream"
	stateUntold   = "not comparable" // all that was read may be newer
)

// storedState is the state in a directory, if there is one. It is opened when it is
// first needed, as no exporter can start until it is closed. It is safe for concurrent
// use.
type storedState struct {
	dir   string // empty if persistence is disabled
	once  sync.Once
	store *store.Store
	err   error // why there is none
}

func (k *storedState) close() {
	if k.store != nil {
		_ = k.store.Close() // it was only read
	}
}

// read reads what is known of a project; nil if nothing is.
func (k *storedState) read(project string) (*collector.Known, error) {
	k.once.Do(func() { k.store, k.err = store.OpenReadOnly(k.dir) })
	switch {
	case errors.Is(k.err, fs.ErrNotExist):
		return nil, nil
	case k.err != nil:
		return nil, k.err
	}
	return collector.ReadKnown(k.store, project)
}

// compare compares the state of a project with a sample of its list.
func (k *storedState) compare(project string, s *sample) State {
	if k.dir == "" {
		return State{Result: stateDisabled}
	}
	state := State{Path: k.dir}
	known, err := k.read(project)
	switch {
	case errors.Is(err, store.ErrInUse):
		state.Result = stateInUse
		return state
	case err != nil:
		state.Result, state.Error = stateUnusable, err.Error()
		return state
	case known == nil:
		state.Result = stateNone
		return state
	}
	state.Listed = known.Listed
	if !known.LastSync.IsZero() {
		state.LastSync = &known.LastSync
	}
	older := 0
	for _, t := range s.traces() {
		state.Known += count(t.ID != "" && known.Has(t.ID))
		older += count(!t.Start.IsZero() && t.Start.Before(known.LastSync))
	}
	switch {
	case state.Known > 0:
		state.Result = stateSame
	case known.Listed > 0 && older*2 > s.rows:
		state.Result = stateOther
	default:
		state.Result = stateUntold
	}
	return state
}
