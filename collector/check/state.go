package check

import (
	"errors"
	"io/fs"
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
	stateOther    = "another list"
	stateUntold   = "not comparable" // all that was read may be newer
)

// newState compares the state in a directory with a sample, if there is one.
func newState(dir, project string, s *sample) State {
	if dir == "" {
		return State{Result: stateDisabled}
	}
	state := State{Path: dir}
	known, err := readKnown(dir, project)
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

func readKnown(dir, project string) (*collector.Known, error) {
	state, err := store.OpenReadOnly(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer state.Close() //nolint:errcheck // it was only read
	return collector.ReadKnown(state, project)
}
