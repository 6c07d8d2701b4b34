// Package storetest has a store for tests.
package storetest

import (
	"maps"
	"slices"
)

// Memory is a collector.Store of one project that shares nothing with what uses
// it.
type Memory struct {
	Entries map[string][]byte // by key; nil if nothing was committed
}

// Clone returns a copy. It may share the bodies: they are never changed.
func (m *Memory) Clone() *Memory { return &Memory{maps.Clone(m.Entries)} }

// Load implements collector.Store.
func (m *Memory) Load(_ string, visit func(string, []byte) error) (bool, error) {
	for _, key := range slices.Sorted(maps.Keys(m.Entries)) {
		if err := visit(key, slices.Clone(m.Entries[key])); err != nil {
			return false, err
		}
	}
	return m.Entries != nil, nil
}

// Projects implements collector.Store.
func (*Memory) Projects() ([]string, error) { return nil, nil }

// Commit implements collector.Store.
func (m *Memory) Commit(_ string, changes map[string][]byte, fresh bool) error {
	if fresh || m.Entries == nil {
		m.Entries = map[string][]byte{}
	}
	for key, body := range changes {
		if m.Entries[key] = slices.Clone(body); body == nil {
			delete(m.Entries, key)
		}
	}
	return nil
}
