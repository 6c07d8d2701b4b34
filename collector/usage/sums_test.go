package usage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"opper_exporter/opper"
)

// readAll lets all projects read usage each minute for a while. Their keys see the same.
func (p *process) readAll(minutes int, rows ...opper.Usage) {
	p.Helper()
	for range minutes {
		for _, name := range p.names {
			p.read(name, "", rows...)
		}
	}
}

// Where Opper tells no projects apart, keys that see the same usage see that of the whole
// organization: the first project by name counts it, for good.
func TestSameUsageWithoutOpperProjects(t *testing.T) {
	rows := []opper.Usage{row(-30, "", "m", 1), row(-1, "", "m", 2), row(-1, "", "n", 4)}
	p := newProcess(t, "b", "a")
	p.readAll(14, rows...)
	p.expect("b: ; a: ")
	p.readAll(5, rows...)
	p.expect("b: ; a: /m=3 /n=4")
	if by := p.projects["b"].set.CountedBy(); by != "a" {
		t.Errorf("counted by %q", by)
	}
	if p.projects["b"].set.IsUndecided() {
		t.Error("b is undecided")
	}
	for range 2 {
		p.kill()
		p.pass(time.Hour)
		p.readAll(20, rows...)
		p.expect("b: ; a: /m=3 /n=4")
	}
	// Nothing is used for days, and a cannot read when there is usage again.
	p.pass(90 * time.Hour)
	p.readAll(20)
	rows = []opper.Usage{row(95, "", "m", 8), row(96, "", "m", 8)}
	p.pass(6 * time.Hour)
	for range 60 {
		p.read("b", "", rows...)
	}
	p.kill()
	for range 60 {
		p.read("b", "", rows...)
	}
	p.expect("b: ; a: /m=3 /n=4")
	p.readAll(60, rows...)
	p.expect("b: ; a: /m=19 /n=4")
	// A key that is added sees the same.
	p.configure("b", "a", "0")
	p.readAll(60, rows...)
	p.expect("b: ; a: /m=19 /n=4; 0: ")
	// What a has counted is not counted again by the one that takes over.
	p.configure("b")
	p.pass(time.Hour)
	p.readAll(60, rows...)
	p.expect("b: /m=0")
	p.readAll(1, append(rows, row(96, "", "m", 5))...)
	p.expect("b: /m=5")
}

// The present hour grows between two reads, so it says nothing.
func TestPresentHourWithoutOpperProjects(t *testing.T) {
	p := newProcess(t, "a", "b")
	cost := int64(0)
	for range 49 { // until the hour ends
		for _, name := range p.names {
			cost++
			p.read(name, "", row(0, "", "m", cost))
		}
	}
	p.expect("a: ; b: ")
	p.readAll(40, row(0, "", "m", cost))
	p.expect("a: /m=98; b: ")
}

// Keys that see their own usage only differ, and each counts its own.
func TestOwnUsageWithoutOpperProjects(t *testing.T) {
	p := newProcess(t, "a", "b", "c")
	read := func(minutes int) {
		for range minutes {
			p.read("a", "", row(-1, "", "m", 1), row(-2, "", "m", 1))
			p.read("b", "", row(-1, "", "m", 2))
			p.read("c", "")
		}
	}
	read(14)
	p.expect("a: ; b: ; c: ")
	read(5)
	p.expect("a: /m=2; b: /m=2; c: ")
	p.kill()
	read(40)
	p.expect("a: /m=2; b: /m=2; c: ")
}

// What was counted as the sum of all is not counted once more when Opper tells projects
// apart.
func TestOpperProjectsAfterTheSum(t *testing.T) {
	p := newProcess(t, "a", "b")
	p.readAll(20, row(-1, "", "m", 3))
	p.expect("a: /m=3; b: ")
	p.pass(time.Hour)
	rows := []opper.Usage{row(-1, "X", "m", 1), row(-1, "Y", "m", 2)}
	for range 60 {
		p.read("a", "X", rows...)
		p.read("b", "Y", rows...)
	}
	p.expect("a: /m=3; b: /m=0")
	rows = append(rows, row(1, "X", "m", 10), row(1, "Y", "m", 20), row(1, "", "m", 40))
	p.pass(time.Hour)
	for range 60 {
		p.read("a", "X", rows...)
		p.read("b", "Y", rows...)
	}
	p.expect("a: /m=53; b: /m=20")
}

// TestSchedulesWithoutOpperProjects lets keys of an organization, of which some see all and
// others their own usage, read it while Opper tells no projects apart. All is counted
// once, whatever happens.
func TestSchedulesWithoutOpperProjects(t *testing.T) {
	first, end := int64(0), max(*schedules/5, 1)
	if *seed >= 0 {
		first, end = *seed, *seed+1
	}
	for n := first; n < end; n++ {
		sumSchedule(t, n)
	}
}

func sumSchedule(t *testing.T, seed int64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(seed), 2))
	names := []string{"a", "b", "c"}[:2+rng.IntN(2)]
	p := newProcess(t, names...)
	isWide, own := rng.IntN(3) > 0, map[string][]opper.Usage{}
	visible := func(name string) (rows []opper.Usage) {
		if !isWide {
			return own[name]
		}
		for _, n := range names {
			rows = append(rows, own[n]...)
		}
		return rows
	}
	call := func() {
		name, now := names[rng.IntN(len(names))], p.projects["a"].now
		hour := int(now.Sub(noon).Hours()) - rng.IntN(2)*rng.IntN(4)
		own[name] = append(own[name], row(hour, "", []string{"m", "n"}[rng.IntN(2)], 1+rng.Int64N(1e9)))
	}
	counted := func() (sum int64) {
		for _, name := range names {
			for _, m := range p.projects[name].set.Models() {
				sum += m.counted[Cost]
			}
		}
		return sum
	}
	truth := func() (sum int64) {
		for _, rows := range own {
			for i := range rows {
				sum += rows[i].Cost
			}
		}
		return sum
	}
	readSome := func(minutes int) {
		down := names[rng.IntN(len(names))]
		isDown := rng.IntN(3) == 0
		for range minutes {
			for _, name := range names {
				if isDown && name == down {
					p.projects[name].set.Failed()
					p.projects[name].now = p.projects[name].now.Add(time.Minute)
					continue
				}
				p.read(name, "", visible(name)...)
			}
			if rng.IntN(20) == 0 {
				call()
			}
		}
	}
	for range 30 {
		switch rng.IntN(8) {
		case 0, 1, 2:
			readSome(1 + rng.IntN(60))
		case 3, 4:
			p.pass(time.Duration(rng.IntN(120)) * time.Minute)
			call()
		case 5:
			p.pass(time.Duration(rng.IntN(24)) * time.Hour)
		case 6:
			p.kill()
		case 7:
			call()
		}
		if got, want := counted(), truth(); got > want {
			t.Fatalf("seed %d: counted %d, and used were %d", seed, got, want)
		}
	}
	for i, name := range names { // the same cost would look like the same usage
		own[name] = append(own[name], row(int(p.projects["a"].now.Sub(noon).Hours()), "", "m", int64(1+i)))
	}
	p.pass(time.Hour)
	for range 100 {
		for _, name := range names {
			p.read(name, "", visible(name)...)
		}
	}
	if got, want := counted(), truth(); got != want {
		t.Errorf("seed %d: counted %d, want %d (organization-wide: %v)", seed, got, want, isWide)
	}
	if counting := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return len(p.projects[name].set.Models()) == 0 }); isWide && len(counting) != 1 {
		t.Errorf("counted by %v", counting)
	}
}

// An hour has a bounded number of models. What further ones cost is counted once, too, also
// after a restart.
func TestModelsOfAnHourAreBounded(t *testing.T) {
	f := newFixture(t, Config{MaxModels: 1})
	var rows []opper.Usage
	add := func(n int) {
		for range n {
			rows = append(rows, row(0, "X", fmt.Sprintf("m%05d", len(rows)), 1))
		}
	}
	sum := func() (sum int64) {
		for _, z := range f.set.ZeroPending() {
			z.EndZero()
		}
		for _, m := range f.set.Models() {
			sum += m.Exposed()[Cost]
		}
		return sum
	}
	for i, n := range []int{maxCells - 1, 3, 100, 0, 7} {
		add(n)
		rows[0].Cost++ // one that has a mark of its own
		if i > 1 {
			rows[maxCells+1].Cost += 2 // and one that has none
		}
		slices.Reverse(rows[maxCells/2 : maxCells-1])
		f.mustRead(rows...)
		f.restart()
		want := int64(0)
		for _, u := range rows {
			want += u.Cost
		}
		if got, marks := sum(), len(f.set.hours[hourOf(noon)]); got != want || marks > maxCells+1 {
			t.Errorf("read %d: cost %d with %d marks, want %d with %d", i, got, marks, want, maxCells+1)
		}
	}
	f.now = f.now.Add(time.Hour)
	slices.Reverse(rows)
	before := sum()
	if f.later(rows...); sum() != before {
		t.Errorf("in another order %d was counted, want %d", sum(), before)
	}
}
