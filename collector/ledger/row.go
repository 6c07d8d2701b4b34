package ledger

import (
	"time"
)

// Row is one row of the list, as far as it matters for counting.
type Row struct {
	ID          ID
	Ref         string // the identifier as Opper writes it; empty if it is ID.String(), or NoRef
	Name        string
	Status      string
	HasStatus   bool
	Start, End  time.Time // to the microsecond; zero if unknown; End is zero while the trace runs
	Duration    time.Duration
	HasDuration bool
	Tokens      int64
	HasTokens   bool
	Kind        Kind
}

// NoRef stands for an identifier that is not kept, as it is too long: Opper can't be asked
// for the trace.
const NoRef = "\x00"

// Kind tells rows that stand for a trace from those that only take a place.
type Kind uint8

// The kinds of rows.
const (
	Normal     Kind = iota
	Unreadable      // Opper could not be made to say what stands here; has no ID
	NoID            // the row has no id, so it could not be counted once
)

// Run is a stretch of consecutive rows, in list order.
type Run struct {
	Rows    []Row
	AtStart bool // nothing is listed before the first row
	AtEnd   bool // nothing is listed after the last row
	When
}

// Stretch is a number of consecutive rows from an index on.
type Stretch struct{ Index, Rows int }

// When says between which times something was read. What Opper said may be as
// old as Asked, and was not known to us before Read.
type When struct {
	Asked, Read time.Time
}

// distinct returns rows in which each id stands once, as last read. Where
// something is to be changed about them, they are a copy.
func distinct(rows []Row) []Row {
	if plainRows(rows) {
		return rows
	}
	out := make([]Row, 0, len(rows))
	at := make(map[ID]int, len(rows))
	for _, r := range rows {
		if r.Kind != Unreadable {
			if i, ok := at[r.ID]; ok {
				out[i] = r
				continue
			}
			at[r.ID] = len(out)
		}
		out = append(out, r)
	}
	return out
}

// plainRows reports whether all rows can be read and no two of them seem to
// have one id. A map would cost more than all else that is done with a page.
func plainRows(rows []Row) bool {
	var seen [512]uint16 // positions, from 1 on
	if len(rows) > len(seen)/2 {
		return false
	}
	for i, r := range rows {
		if r.Kind == Unreadable {
			return false
		}
		slot := hashOf(r.ID) % uint64(len(seen))
		for ; seen[slot] != 0; slot = (slot + 1) % uint64(len(seen)) {
			if rows[seen[slot]-1].ID == r.ID {
				return false
			}
		}
		seen[slot] = uint16(i + 1)
	}
	return true
}
