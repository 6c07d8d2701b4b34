package ledger

import "time"

// MaxAge is longer than Opper lists any trace.
const MaxAge = 31 * 24 * time.Hour

// minClientTime is the earliest client time that is published. Clients that
// have no time send an empty date: year 0, 1, 1601 or 1970, by their platform.
var minClientTime = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// ClientTime returns a client's time as it may be published: no later than when
// the trace was first seen, and zero if that is before 2000.
func ClientTime(t, firstSeen time.Time) time.Time {
	if t = earliest(t, firstSeen); t.Before(minClientTime) {
		return time.Time{}
	}
	return t
}
