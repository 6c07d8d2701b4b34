package syncer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// tenMinutes are of syncs, between which unreadable rows are read again.
func (b *bench) tenMinutes() {
	b.t.Helper()
	for range 20 {
		b.step(30 * time.Second)
		b.mustSync()
		b.sweep(10)
	}
}

// That most rows can't be read does not make Opper look unavailable, wherever the others
// stand.
func TestMostRowsAreUnreadable(t *testing.T) {
	b := newBench(t, oppertest.Config{MaxOffset: 35})
	rows := b.fill(50)
	b.mustSync()
	b.quiet()
	for i, row := range rows {
		if i%3 != 1 {
			b.opper.Fail(oppertest.Fault{Answer: oppertest.Cut, Row: row.ID, Times: -1})
		}
	}
	var err error
	for range 10 {
		b.step(time.Second)
		if err = b.sync(); err == nil {
			return
		}
	}
	t.Error(err)
}

// A row that could not be read for some seconds is counted soon after it can be
// read again, while no sweep is due.
func TestUnreadableRowReadAgainSoon(t *testing.T) {
	for where, place := range map[string]int{"first": 0, "second": 1, "middle": 437, "last": 499} {
		for _, listed := range []int{20, 500} {
			t.Run(fmt.Sprint(where, " of ", listed), func(t *testing.T) {
				b := newBench(t, oppertest.Config{})
				b.syncer.cfg.SweepInterval = 24 * time.Hour
				rows := b.fill(listed)
				b.opper.Fail(oppertest.Fault{Row: rows[min(place, listed-1)].ID, Times: -1, Answer: oppertest.Errors(http.StatusInternalServerError)["v2 string"]})
				b.mustSync()
				b.step(10 * time.Second)
				b.opper.Clear()
				// Ten minutes: a backoff that began at an interval has tried it a few times.
				b.tenMinutes()
				if got := len(b.counted); got != listed {
					t.Errorf("counted %d, want %d\n%s", got, listed, b.log.String())
				}
				if said := strings.Contains(b.log.String(), `msg="unreadable rows read" rows=1`); b.events.Gaps != 1 || !said {
					t.Errorf("%d gaps, want 1; said to be read: %t\n%s", b.events.Gaps, said, b.log.String())
				}
			})
		}
	}
}

// So is one before which rows were deleted meanwhile that the exporter believes listed.
func TestUnreadableRowMovesUpBeforeItIsRead(t *testing.T) {
	for deleted, place := range map[int]int{25: 200, 120: 260, 150: 498} {
		t.Run(fmt.Sprintf("%d deleted before %d", deleted, place), func(t *testing.T) {
			b := newBench(t, oppertest.Config{TotalCount: func(int) *int { return nil }})
			b.syncer.cfg.SweepInterval = 24 * time.Hour
			rows := b.fill(500)
			b.opper.Fail(oppertest.Fault{Row: rows[place].ID, Times: -1, Answer: oppertest.Cut})
			b.mustSync()
			for _, row := range rows[110 : 110+deleted] {
				b.opper.Delete(row.ID)
			}
			b.step(10 * time.Second)
			b.opper.Clear()
			b.tenMinutes()
			if got := len(b.counted); got != 500 {
				t.Errorf("counted %d, want 500\n%s", got, b.log.String())
			}
		})
	}
}

// A row that stays unreadable is read again ever more rarely, but at least once an hour.
func TestUnreadableRowReadAgainRarely(t *testing.T) {
	b := newBench(t, oppertest.Config{})
	b.syncer.cfg.SweepInterval = 0
	b.opper.Fail(oppertest.Fault{Row: b.fill(20)[7].ID, Times: -1, Answer: oppertest.Errors(http.StatusInternalServerError)["v2 string"]})
	b.mustSync()
	tries := 0
	for range 24 * 60 {
		b.step(time.Minute)
		if b.syncer.IsSweepDue() {
			tries++
			b.sweep(1)
		}
	}
	if tries < 24 || tries > 40 {
		t.Errorf("read again %d times in a day", tries)
	}
}

// Rows that expire while small pages are read around unreadable ones make a cursor read
// others again and again: that is no list without an end.
func TestManyUnreadableRowsInSteadyExpiry(t *testing.T) {
	const every = 3600 * time.Millisecond
	for _, oneIn := range []int{25, 40} {
		b := newBench(t, oppertest.Config{OldestFirst: true, Retention: 15 * time.Minute})
		listed, last := 0, b.now()
		arrive := func() {
			for ; b.now().Sub(last) >= every; listed++ {
				last = last.Add(every)
				tr := endedTrace(fmt.Sprint("steady ", listed), last)
				b.opper.Add(tr)
				if listed%oneIn == 0 {
					b.opper.Fail(oppertest.Fault{Row: tr.ID, Times: -1, Answer: oppertest.Cut})
				}
			}
		}
		for range 250 {
			b.step(every)
			arrive()
		}
		b.opper.OnRequest(func(oppertest.Request) {
			b.step(every / 4)
			arrive()
		})
		for range 10 {
			if err := b.sync(); errors.Is(err, errEndless) {
				t.Errorf("one in %d is unreadable: %v", oneIn, err)
			}
		}
	}
}
