package ledger

import (
	"testing"
	"time"
)

func TestClientTime(t *testing.T) {
	firstSeen := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, isPublished := range map[string]bool{
		"0000-12-31T23:00:00Z": false, "0001-01-01T00:00:00Z": false, "0001-01-01T00:00:00+02:00": false, "0001-01-01T00:00:00-05:00": false,
		"1600-01-01T00:00:00Z": false, "1677-09-21T00:12:43Z": false, "1970-01-01T00:00:00Z": false, "1999-12-31T23:59:59.999999Z": false,
		"2000-01-01T00:00:00+00:01": false, "1999-12-31T23:00:00-01:00": true, "2000-01-01T00:00:00Z": true, "2026-05-01T14:00:00+02:00": true,
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := ClientTime(at, firstSeen); got.IsZero() == isPublished || isPublished && !got.Equal(at) {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, at := range []time.Time{firstSeen.Add(1), firstSeen.AddDate(300, 0, 0), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Unix(1<<60, 0)} {
		if got := ClientTime(at, firstSeen); !got.Equal(firstSeen) {
			t.Errorf("%v: %v", at, got)
		}
	}
	if got := ClientTime(firstSeen, time.Unix(0, 0)); !got.IsZero() {
		t.Errorf("with a clock that is not set: %v", got)
	}
}

// All events carry times as they may be published, also of the initial sync.
func TestNoHostileTimesInEvents(t *testing.T) {
	b := &book{New(Config{SettleDelay: settle, AbandonAfter: abandon}), t}
	r := open(1)
	r.Start, r.End = time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)
	ev := b.list(0, r)
	b.is(ev, "seen 1 counted 1")
	for _, got := range []Row{ev.FirstSeen[0], ev.Counted[0].Row} {
		if !got.Start.IsZero() || !got.End.IsZero() {
			t.Errorf("from %v to %v", got.Start, got.End)
		}
	}
}

// A start in the future says nothing about how old a trace is.
func TestFirstSeenBeforeItsStart(t *testing.T) {
	b := &book{New(Config{SettleDelay: settle, AbandonAfter: abandon}), t}
	r := open(1)
	r.Start, r.End = epoch.Add(time.Hour), epoch.Add(time.Hour)
	if got := b.list(0, r).FirstSeen[0]; !got.Start.IsZero() || !got.End.Equal(epoch) {
		t.Errorf("from %v to %v", got.Start, got.End)
	}
}
