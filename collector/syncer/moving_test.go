package syncer

import (
	"fmt"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// A list so short that one new trace moves a whole page down repeats itself, though
// offset is not ignored.
func TestShortListGrowsBetweenPages(t *testing.T) {
	for _, arrivals := range [][]int{{0, 1, 0, 4}, {0, 1, 1, 0, 4}, {0, 1, 0, 1, 1, 2, 3, 1}, {0, 1, 0, 2, 0, 3, 0, 5}} {
		t.Run(fmt.Sprint(arrivals), func(t *testing.T) {
			// As long as total_count says that there is more, another page is read.
			b := newBench(t, oppertest.Config{TotalCount: func(n int) *int { return new(n + 20) }})
			b.mustSync()
			b.arrive("first", 1, 0)
			n := 0
			b.opper.OnRequest(func(oppertest.Request) {
				if n < len(arrivals) {
					for i := range arrivals[n] {
						b.opper.Add(endedTrace(fmt.Sprintf("during %d, %d", n, i), b.now()))
					}
				}
				n++
			})
			b.step(time.Minute)
			b.mustSync()
			b.quiet()
			b.check()
		})
	}
}

// Bursts may arrive while a head reads more new rows than the list had: it goes on
// where it was, again and again.
func TestBurstsWhileNewRowsWait(t *testing.T) {
	const arrived, burst, bursts = 1500, 120, 6
	b := newBench(t, oppertest.Config{})
	b.fill(10)
	b.mustSync()
	b.arrive("new", arrived, time.Millisecond)
	at, n := 200, 0
	b.opper.OnRequest(func(r oppertest.Request) {
		if r.Offset >= at && n < bursts {
			for i := range burst {
				b.opper.Add(endedTrace(fmt.Sprintf("burst %d, %d", n, i), b.now()))
			}
			at, n = at+200, n+1
		}
	})
	b.opper.ResetRequests()
	b.mustSync()
	if n != bursts {
		t.Errorf("%d bursts", n)
	}
	if got, maximum := b.opper.RequestCount(), 3*(arrived+bursts*burst)/(maxLimit-maxOverlap); got > maximum {
		t.Errorf("%d requests, want at most %d", got, maximum)
	}
	b.quiet()
	b.check()
}
