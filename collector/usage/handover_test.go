package usage

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"opper_exporter/opper"
)

// An Opper project that was counted under another key goes over to the one that proves that
// it is its own. What is used meanwhile is counted once, wherever the process is killed.
func TestOpperProjectGoesToItsOwn(t *testing.T) {
	for killedAfter := range 8 {
		p := newProcess(t, "a")
		early := []opper.Usage{row(-30, "X", "m", 1), row(-30, "Y", "m", 10)}
		p.read("a", "X", append(early, row(0, "X", "m", 1), row(0, "Y", "m", 10))...)
		p.expect("a: /m=2 Y/m=20")
		p.configure("a", "b")
		spent := int64(10)
		for n := range 6 {
			for _, name := range []string{"b", "a"} {
				spent += 5
				p.read(name, map[string]string{"a": "X", "b": "Y"}[name], append(early, row(0, "X", "m", 1), row(0, "Y", "m", spent))...)
				if killedAfter == 2*n {
					p.kill()
				}
			}
			if killedAfter == 2*n+1 {
				p.kill()
			}
		}
		at := map[string]int64{}
		for _, name := range p.names {
			for _, m := range p.projects[name].set.Models() {
				at[name] += m.counted[Cost]
			}
		}
		p.read("b", "Y", append(early, row(0, "Y", "m", spent))...)
		p.pass(time.Hour)
		p.read("b", "Y", append(early, row(0, "Y", "m", spent), row(1, "Y", "m", 100))...)
		if got := p.projects["b"].costs(); got == "" || at["a"]+p.projects["b"].set.Models()[0].counted[Cost] != 2+10+spent+100 {
			t.Errorf("killed after %d reads: a has counted %d, and b %s; they are %d, in all", killedAfter, at["a"], got, 2+10+spent+100)
		}
		if n := p.projects["a"].set.Corrections + p.projects["b"].set.Corrections; n != 0 {
			t.Errorf("killed after %d reads: %d corrections", killedAfter, n)
		}
	}
}

// Two keys of the same Opper project both prove that it is theirs: it stays where it is.
func TestTwoKeysOfTheSameOpperProject(t *testing.T) {
	p := newProcess(t, "b")
	p.read("b", "X", row(0, "X", "m", 1))
	p.configure("a", "b")
	for cost := range int64(30) {
		p.read("a", "X", row(0, "X", "m", cost))
		if cost%9 == 8 {
			p.kill()
		}
		p.read("b", "X", row(0, "X", "m", cost))
	}
	p.expect("a: ; b: /m=29")
}

// Of two keys of the same Opper project that another key counts, one takes it over.
func TestTwoKeysTakeOverTheSameOpperProject(t *testing.T) {
	p := newProcess(t, "a")
	p.read("a", "X", row(0, "X", "m", 1), row(0, "Y", "m", 1))
	p.configure("a", "b", "c")
	for cost := range int64(20) {
		for _, name := range p.names {
			p.read(name, map[string]string{"a": "X", "b": "Y", "c": "Y"}[name], row(0, "X", "m", 1), row(0, "Y", "m", 1+cost))
		}
	}
	p.expect("a: /m=1 Y/m=2; b: /m=18; c: ")
}

// The first read counts nothing until all is decided, and what was taken over meanwhile is
// not counted again.
func TestTakeOverBeforeTheFirstReadIsCounted(t *testing.T) {
	p := newProcess(t, "a", "b")
	p.read("a", "X", row(0, "X", "m", 1), row(0, "Y", "m", 10))
	p.projects["b"].set.Failed()
	p.read("a", "X", row(0, "X", "m", 1), row(0, "Y", "m", 10))
	p.pass(2 * undecidedFor)
	p.read("a", "X", row(0, "X", "m", 1), row(0, "Y", "m", 10))
	p.expect("a: /m=1 Y/m=10; b: ")
	for range 60 { // whose U is waits for 15 minutes
		p.read("b", "Y", row(0, "X", "m", 1), row(0, "Y", "m", 13), row(0, "U", "m", 100))
		p.read("a", "X", row(0, "X", "m", 1), row(0, "Y", "m", 12), row(0, "U", "m", 100))
	}
	p.expect("a: /m=1 U/m=100 Y/m=12; b: /m=1")
}

// Models that share a mark share it with the next project, too, in whichever order it reads
// them.
func TestModelsBeyondTheBoundAreHandedOver(t *testing.T) {
	p := newProcess(t, "a")
	rows := make([]opper.Usage, maxCells+100)
	for i := range rows {
		rows[i] = row(0, "X", fmt.Sprintf("m%05d", i), 1)
	}
	p.read("a", "X", rows...)
	spent := int64(len(rows))
	counted := func() (sum int64) {
		for _, f := range p.projects {
			for _, m := range f.set.Models() {
				sum += m.counted[Cost]
			}
		}
		return sum
	}
	for _, name := range []string{"b", "c", "d"} {
		p.configure(name)
		slices.Reverse(rows)
		for range 2 {
			p.read(name, "X", rows...)
			rows[0].Cost++
			rows[len(rows)-1].Cost++
			spent += 2
			p.read(name, "X", rows...)
		}
		if got := counted(); got != spent {
			t.Errorf("%s: %d is counted of %d", name, got, spent)
		}
	}
}
