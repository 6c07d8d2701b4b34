package aggregate

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"opper_exporter/collector/codec"
)

const (
	// MaxUnmapped bounds the series of statuses, which clients choose freely.
	MaxUnmapped = 10
	// maxUnmappedLabel is in bytes.
	maxUnmappedLabel = 32
	// emptyStatus is the label of a status without a character that can be shown.
	emptyStatus = "(empty)"
)

// Unmapped counts the traces with a status that maps to no outcome.
type Unmapped struct {
	Label   string
	Created time.Time // when Traces was 0

	traces      uint64
	zeroPending bool
}

// Exposed returns the number of traces, or 0 as long as that is pending.
func (u *Unmapped) Exposed() uint64 {
	if u.zeroPending {
		return 0
	}
	return u.traces
}

// EndZero implements ZeroPending.
func (u *Unmapped) EndZero() { u.zeroPending = false }

// Unmapped returns the statuses that map to no outcome, in the order in which they were
// first seen: the first ten, and those of all others as one.
func (s *Set) Unmapped() []*Unmapped { return s.unmapped }

// MapsNow reports whether a status maps to an outcome in the present configuration.
func (s *Set) MapsNow(u *Unmapped) bool {
	_, mapped := s.cfg.Outcome(u.Label)
	return mapped
}

// countUnmapped counts a trace under its status. One that is new since the initial
// sync was created at before, and starts zero-first.
func (s *Set) countUnmapped(status string, before time.Time) {
	label := StatusLabel(status)
	i := s.findUnmapped(label)
	if i < 0 && len(s.unmapped) >= MaxUnmapped {
		label = Other
		i = s.findUnmapped(label)
	}
	if i < 0 {
		u := &Unmapped{Label: label, Created: before, zeroPending: true}
		if s.initialSync {
			u.Created, u.zeroPending = s.Since, false
		}
		i = len(s.unmapped)
		s.unmapped = append(s.unmapped, u)
	}
	s.unmapped[i].traces++
}

func (s *Set) findUnmapped(label string) int {
	return slices.IndexFunc(s.unmapped, func(u *Unmapped) bool { return u.Label == label })
}

// StatusLabel returns a status as it is compared, cut to 32 bytes and without what
// cannot be shown.
func StatusLabel(status string) string {
	label := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, status)
	for len(label) > maxUnmappedLabel {
		_, size := utf8.DecodeLastRuneInString(label)
		label = label[:len(label)-size]
	}
	if label = strings.TrimSpace(label); label == "" {
		return emptyStatus
	}
	return label
}

func (s *Set) codeUnmapped(c *codec.Coder) {
	codec.Slice(c, &s.unmapped, func(u **Unmapped) {
		if c.IsDecoding() {
			*u = new(Unmapped)
		}
		c.Text(&(*u).Label)
		c.Times(&(*u).Created)
		codec.Int(c, &(*u).traces)
		c.Bools(&(*u).zeroPending)
	})
}
