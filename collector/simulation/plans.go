package simulation

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"opper_exporter/opper/oppertest"
)

// randomPlan mixes all troubles.
func randomPlan(pick func(n int) int) plan {
	often := func(kinds ...int) int { return kinds[pick(len(kinds))] }
	p := plan{
		list: oppertest.Config{
			Seed:        int64(pick(1000)),
			SortBy:      oppertest.Sort(pick(4)),
			OldestFirst: pick(3) == 0,
		},
		history: []int{0, 4, 15, 15, 30, 30, 60, 120}[pick(8)],
		orderly: pick(3) > 0,
		steps:   4 + pick(10),
		names:   []int{100, 100, 2}[pick(3)],
		change:  often(0, 2, 2, 4), backdate: often(0, 0, 3), remove: often(0, 0, 4, 10), relist: often(0, 0, 5),
		fault: often(0, 0, 5, 20), foreign: often(0, 0, 0, 20), poison: often(0, 0, 0, 10),
		crash: often(0, 0, 10, 40), unwritable: often(0, 0, 8), restart: often(0, 0, 8),
		clock: often(0, 0, 0, 8),
		burst: often(0, 0, 3, 8), pause: often(0, 0, 4), stall: often(0, 0, 0, 20), outage: often(0, 0, 0, 6),
		moved: often(0, 0, 0, 5), dim: often(0, 0, 0, 4), stuck: often(0, 0, 0, 0, 6), endless: often(0, 0, 0, 0, 8),
		empty:      often(0, 0, 0, 40),
		sweepEvery: []time.Duration{20 * time.Minute, 20 * time.Minute, 24 * time.Hour}[pick(3)],
	}
	if pick(2) == 0 {
		p.list.Retention = time.Duration(10+pick(120)) * time.Minute
		p.list.ExpireByStart = pick(2) == 0
	}
	switch pick(10) {
	case 8:
		p.idle, p.old = true, time.Duration(pick(72*60))*time.Minute
	case 9:
		// It turns over several times, so that what arrives is about what expires.
		p.list.Retention, p.list.SortBy = time.Duration(10+pick(20))*time.Minute, oppertest.Sort([]int{0, 0, 1, 1, 2, 3}[pick(6)])
		p.every = p.list.Retention / time.Duration([]int{20, 100, 250, 400}[pick(4)])
		p.history, p.steps, p.idle = 0, 10+pick(20), pick(2) == 0
		p.remove, p.backdate, p.relist = 0, 0, 0
	}
	switch pick(10) {
	case 0:
		p.list.TotalCount = missingTotal
	case 1:
		p.list.TotalCount = cappedTotal(20 + pick(100))
	case 2:
		p.list.TotalCount = lyingTotal(pick(1000) - 500)
	case 3:
		p.list.TotalCount = lateTotal(1 + pick(20))
	default:
		if pick(3) > 0 {
			p.short = 15 + pick(20)
		}
	}
	if pick(10) == 0 {
		// On a small page, due rows may be missed and have to be asked for.
		p.list.NoGet, p.poison, p.dim, p.fault, p.short = []int{405, 500}[pick(2)], 0, 0, 0, 0
	}
	if pick(20) == 0 {
		// What was served to a process that crashed then is not what the truth asks for.
		p.list.MaxOffset, p.crash, p.restart = 20+pick(150), 0, 0
	}
	if p.fault > 0 || p.poison > 0 || p.dim > 0 {
		// Read row by row, a list has nothing that ties one answer to the next.
		p.foreign = 0
	}
	p.expiry = []time.Duration{0, time.Duration(1+pick(10)) * time.Minute, time.Duration(10+pick(60)) * time.Minute}[pick(3)]
	p.clients = []time.Duration{0, 0, 0, 5 * time.Minute, -5 * time.Minute, 2 * time.Hour, -2 * time.Hour}[pick(7)]
	p.taken = []int{0, 0, 1 + pick(150)}[pick(3)]
	return p
}

// source of chances that a seed stands for.
func picker(seed int64) func(n int) int {
	return rand.New(rand.NewPCG(uint64(seed), 3)).IntN
}

// Random runs schedules that mix all troubles: the promises hold whatever happens
// between any two reads and writes.
func Random(t *testing.T, target Target) {
	t.Helper()
	Seeds(t, func(t *testing.T, seed int64) {
		t.Helper()
		pick := picker(seed)
		s := newSimulation(t, target, fmt.Sprintf("seed %d: go test ./collector -run TestSimulation$ -seed %d", seed, seed), pick, randomPlan(pick))
		s.tell("%+v", s.plan)
		s.run()
	})
}

// Seeds runs a schedule of each seed that the flags choose. It reports whether these are
// many, so that all that can happen has.
func Seeds(t *testing.T, run func(t *testing.T, seed int64)) (many bool) {
	t.Helper()
	const (
		ranges   = 8
		failures = 10 // of a range, before it ends
	)
	if IsReplay() {
		run(t, *replay)
		return false
	}
	t.Run("seeds", func(t *testing.T) {
		for r := range ranges {
			t.Run(strconv.Itoa(r), func(t *testing.T) {
				t.Parallel()
				failed := 0
				for seed := *first + r; seed < *first+*schedules && failed < failures; seed += ranges {
					if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { run(t, int64(seed)) }) {
						failed++
					}
				}
			})
		}
	})
	return *schedules >= 1000
}

// IsReplay reports whether one schedule is run to see what happens in it.
func IsReplay() bool { return *replay >= 0 }

// Named runs the schedules that the promises name, each with nothing else in its
// way: fewer of each if there are few random ones.
func Named(t *testing.T, target Target) {
	t.Helper()
	each := min(25, 1+*schedules/20)
	calm := func(pick func(n int) int) plan {
		return plan{history: []int{10, 60, 130}[pick(3)], orderly: pick(3) > 0, steps: 15, short: 15 + pick(20), names: 100, change: 2}
	}
	orders := func(p *plan, pick func(n int) int, sorts ...oppertest.Sort) {
		p.list.SortBy, p.list.OldestFirst = sorts[pick(len(sorts))], pick(2) == 0
	}
	// The list turns over several times, while as many arrive as expire.
	steady := func(p *plan, pick func(n int) int, listed int) {
		orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
		p.list.Retention = time.Duration(10+pick(10)) * time.Minute
		p.every, p.idle, p.history, p.short, p.steps = p.list.Retention/time.Duration(listed), true, 0, 0, 18
	}
	totals := func(p *plan, pick func(n int) int) {
		p.list.TotalCount = []func(int) *int{nil, missingTotal, cappedTotal(2 + pick(150)), lateTotal(1 + pick(20))}[pick(4)]
		if p.list.TotalCount != nil {
			p.short = 0
		}
	}
	for name, of := range map[string]func(p *plan, pick func(n int) int){
		"bursts larger than the list": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			totals(p, pick)
			p.history, p.burst = []int{1, 3, 15, 60}[pick(4)], 2
		},
		"outages that end in bursts": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			totals(p, pick)
			p.history, p.outage = []int{1, 3, 15, 60}[pick(4)], 2
		},
		"bursts that one sync does not take in": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			totals(p, pick)
			p.history, p.burst, p.taken, p.crash, p.restart = []int{1, 15, 60, 300}[pick(4)], 2, 1+pick(100), 20, 6
		},
		"pauses in steady expiry": func(p *plan, pick func(n int) int) {
			steady(p, pick, 150+pick(250))
			p.list.TotalCount, p.pause = lateTotal(1+pick(20)), 4
		},
		"more than a page expires": func(p *plan, pick func(n int) int) {
			steady(p, pick, 400)
			p.list.TotalCount, p.pause = []func(int) *int{missingTotal, lateTotal(1 + pick(20))}[pick(2)], 2
		},
		"outages about as long as the retention": func(p *plan, pick func(n int) int) {
			steady(p, pick, 20+pick(200))
			totals(p, pick)
			p.pause, p.outage = 4, 6
		},
		"the key of a small old project goes elsewhere": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.history, p.idle, p.old, p.moved = 1+pick(20), true, time.Duration(61+pick(72*60))*time.Minute, 3
		},
		"the key of a young project goes elsewhere": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.history, p.burst, p.moved = 1+pick(100), 6, 3
		},
		"rows unreadable for some time": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1)
			p.dim, p.sweepEvery = 3, 24*time.Hour
		},
		"the list seems to be empty": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			totals(p, pick)
			p.empty, p.steps, p.fault = 8, 25, []int{0, 10}[pick(2)]
		},
		"offset is ignored": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.history, p.short, p.stuck = 130+pick(150), 0, 3
		},
		"offsets are refused": func(p *plan, pick func(n int) int) {
			steady(p, pick, 100)
			p.list.MaxOffset, p.list.NoGet, p.burst, p.idle = 100+pick(100), []int{0, 405, 500}[pick(3)], 3, false
		},
		"a list without end": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1, 2, 3); p.burst, p.endless = 6, 3 },
		"retention only": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.Retention, p.list.ExpireByStart, p.quiet = time.Duration(10+pick(30))*time.Minute, pick(2) == 0, true
		},
		"retention and crashes": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.Retention, p.crash, p.quiet = time.Duration(10+pick(30))*time.Minute, 20, true
		},
		"expiry out of order": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByStart, oppertest.ByUpdate, oppertest.ByID)
			p.list.Retention, p.backdate = time.Duration(10+pick(30))*time.Minute, 3
		},
		"hidden arrivals cancel against expiry": func(p *plan, _ func(n int) int) {
			p.list.SortBy, p.list.Retention, p.change, p.cancel = oppertest.ByStart, time.Hour, 0, true
		},
		"capped total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.TotalCount, p.short, p.history = cappedTotal(20+pick(80)), 0, 130
		},
		"lying total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart)
			p.list.TotalCount, p.short = lyingTotal(pick(300)-150), 0
		},
		"missing total": func(p *plan, pick func(n int) int) {
			orders(p, pick, oppertest.ByArrival, oppertest.ByStart, oppertest.ByID)
			p.list.TotalCount, p.short, p.history = missingTotal, 0, 130
		},
		"clients 5 minutes slow": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = -5 * time.Minute },
		"clients 5 minutes fast": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = 5 * time.Minute },
		"clients 2 hours slow":   func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = -2 * time.Hour },
		"clients 2 hours fast":   func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clients = 2 * time.Hour },
		"we are 5 minutes slow":  func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = -5 * time.Minute },
		"we are 5 minutes fast":  func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = 5 * time.Minute },
		"we are 2 hours slow":    func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = -2 * time.Hour },
		"we are 2 hours fast":    func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.ours = 2 * time.Hour },
		"our clock is set":       func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1); p.clock, p.restart = 5, 4 },
		"deletion between pages": func(p *plan, pick func(n int) int) {
			p.list.OldestFirst, p.history, p.remove = pick(2) == 0, 130, 2
		},
		"another project": func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1, 2, 3); p.foreign = 5 },
		"full disk":       func(p *plan, pick func(n int) int) { orders(p, pick, 0, 1, 2, 3); p.unwritable, p.crash = 3, 20 },
		"names expire and return": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.expiry, p.names, p.crash = time.Duration(1+pick(20))*time.Minute, []int{100, 2}[pick(2)], 15
			p.change, p.pause, p.steps, p.history = 6, 3, 30, pick(15)
		},
		"names expire where commits fail": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.expiry, p.names = time.Duration(1+pick(5))*time.Minute, []int{100, 2}[pick(2)]
			p.change, p.unwritable, p.crash, p.restart, p.steps, p.history = 6, 2, 20, 6, 40, pick(15)
		},
		"the real store": func(p *plan, pick func(n int) int) {
			orders(p, pick, 0, 1, 2, 3)
			p.onDisk, p.crash, p.restart, p.remove, p.relist, p.expiry = true, 20, 6, 6, 6, 5*time.Minute
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range int64(each) {
				if *replay >= 0 && seed != *replay {
					continue
				}
				pick := picker(seed)
				p := calm(pick)
				of(&p, pick)
				replay := fmt.Sprintf("go test ./collector -run '%s' -seed %d", t.Name(), seed)
				newSimulation(t, target, replay, pick, p).run()
			}
		})
	}
}

// Fuzz runs schedules that its input chooses. At its end, nothing more goes wrong.
func Fuzz(f *testing.F, target Target) {
	f.Helper()
	for seed := range int64(8) {
		rng, data := rand.New(rand.NewPCG(uint64(seed), 5)), make([]byte, 600)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pick := func(n int) int {
			if len(data) == 0 {
				return n - 1
			}
			x := 0
			for size := 1; size < n && len(data) > 0; size <<= 8 {
				x, data = x<<8|int(data[0]), data[1:]
			}
			return x % n
		}
		newSimulation(t, target, "see the input", pick, randomPlan(pick)).run()
	})
}
