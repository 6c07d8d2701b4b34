package opper

import (
	"crypto/sha256"
	"errors"
	"sync"
)

// errSharedKey is a key that would count the same traces under two names.
var errSharedKey = errors.New("the key is that of another project, whose traces would be counted twice")

// sharedKeys are those of projects of which no two may have the same key.
type sharedKeys struct {
	mu      sync.Mutex
	holders map[[sha256.Size]byte]*heldKey
}

// KeepApart makes a key of one of these sources never become that of another while it is
// in use there: of a file that changes to it, the last good key stays in use.
func KeepApart(sources []KeySource) {
	shared := &sharedKeys{holders: map[[sha256.Size]byte]*heldKey{}}
	for _, source := range sources {
		h := source.held
		h.mu.Lock()
		h.shared = shared
		_ = shared.take(h, *h.key) // two that have the same already keep it
		h.mu.Unlock()
	}
}

// take makes a key that of a source, or is an error if another one has it.
func (s *sharedKeys) take(h *heldKey, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256([]byte(key))
	if holder := s.holders[sum]; holder != nil && holder != h {
		return errSharedKey
	}
	if before := sha256.Sum256([]byte(*h.key)); s.holders[before] == h {
		delete(s.holders, before)
	}
	s.holders[sum] = h
	return nil
}
