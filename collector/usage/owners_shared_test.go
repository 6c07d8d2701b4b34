package usage

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
)

// process is several configured projects.
type process struct {
	*testing.T
	owners   *Owners
	projects map[string]*fixture
	names    []string
}

func newProcess(t *testing.T, names ...string) *process {
	t.Helper()
	p := &process{T: t, projects: map[string]*fixture{}}
	p.owners = NewOwners()
	p.configure(names...)
	return p
}

func (p *process) configure(names ...string) {
	p.owners.SetProjects(names)
	for _, name := range names {
		if p.projects[name] == nil {
			p.projects[name] = newFixture(p.T, Config{Project: name, Owners: p.owners})
			for _, f := range p.projects {
				p.projects[name].now = f.now
				break
			}
		}
	}
	p.names = names
}

func (p *process) kill() {
	p.owners = NewOwners(p.names...)
	for _, name := range p.names {
		p.projects[name].cfg.Owners = p.owners
		p.projects[name].restart()
	}
}

func (p *process) read(name, own string, rows ...opper.Usage) {
	p.Helper()
	if err := p.projects[name].readOf(own, rows...); err != nil {
		p.Fatal(err)
	}
}

// pass lets time pass.
func (p *process) pass(d time.Duration) {
	for _, f := range p.projects {
		f.now = f.now.Add(d)
	}
}

func (p *process) expect(want string) {
	p.Helper()
	var all []string
	for _, name := range p.names {
		all = append(all, name+": "+p.projects[name].costs())
	}
	if got := strings.Join(all, "; "); got != want {
		p.Errorf("counted: %s, want %s", got, want)
	}
}

// A key that sees one Opper project, which no other sees, sees its own: as soon as all
// others have read or failed.
func TestProjectsOfTheirOwn(t *testing.T) {
	p := newProcess(t, "a", "b", "c")
	p.read("a", "", row(0, "X", "m", 1))
	p.read("b", "", row(0, "Y", "m", 2), row(0, "", "m", 3)) // rows of its own without one
	p.expect("a: ; b: ; c: ")
	p.projects["c"].set.Failed()
	p.read("a", "", row(0, "X", "m", 1), row(0, "", "m", 5))
	p.read("b", "", row(0, "Y", "m", 2), row(0, "", "m", 3))
	p.expect("a: /m=1 (none)/m=5; b: /m=2 (none)/m=3; c: ")
	p.read("c", "")
	p.read("c", "", row(0, "Z", "m", 4))
	p.expect("a: /m=1 (none)/m=5; b: /m=2 (none)/m=3; c: /m=4")
}

// Keys that see the whole organization: a proof decides, else the first by name.
func TestProjectsOfOneOrganization(t *testing.T) {
	rows := []opper.Usage{row(-30, "X", "m", 1), row(0, "Y", "m", 2), row(0, "Z", "m", 4), row(0, "", "m", 8)}
	p := newProcess(t, "a", "b")
	p.read("b", "Y", rows...)
	p.read("a", "", rows...)
	p.expect("a: ; b: ")
	p.pass(undecidedFor - 3*time.Minute)
	p.read("a", "", rows...)
	p.expect("a: ; b: ")
	p.kill() // which loses since when that is so
	p.read("a", "", rows...)
	p.pass(undecidedFor)
	p.read("b", "Y", rows...)
	p.expect("a: ; b: ")
	p.read("a", "", rows...)
	p.pass(undecidedFor)
	p.read("a", "", rows...)
	for _, m := range p.projects["a"].set.Models() {
		if m.zeroPending {
			t.Errorf("history of %v does not appear at once", m)
		}
	}
	p.read("b", "Y", rows...)
	p.expect("a: (none)/m=8 X/m=1 Z/m=4; b: /m=2")
	for range 2 {
		p.kill()
		p.read("b", "Y", rows...)
		p.read("a", "", rows...)
		p.expect("a: (none)/m=8 X/m=1 Z/m=4; b: /m=2")
	}
	// A new one waits in the same way, and none of its hours becomes final meanwhile.
	rows = append(rows, row(0, "U", "m", 16))
	p.pass(time.Hour)
	p.read("a", "", rows...)
	p.read("b", "Y", rows...)
	p.expect("a: (none)/m=8 X/m=1 Z/m=4; b: /m=2")
	p.pass(60 * time.Hour)
	rows = append(rows, row(61, "U", "m", 32))
	p.read("a", "", rows...)
	if m := p.projects["a"].set.Models()[1]; m.OpperProject != "U" || !m.zeroPending {
		t.Errorf("new: %+v", m)
	}
	p.read("b", "Y", rows...)
	p.expect("a: (none)/m=8 U/m=48 X/m=1 Z/m=4; b: /m=2")
}

// Nobody guesses whose an Opper project is while another may still prove that it is its
// own, however often it reads usage or fails to; but for no more than a day.
func TestGuessesAwaitInitialSyncs(t *testing.T) {
	rows := []opper.Usage{row(0, "X", "m", 1), row(0, "Y", "m", 2)}
	ahead := Proof{IsAhead: true}
	for _, c := range []struct {
		what string
		b    func(p *process, hour float64) error
		want string
	}{
		{"silent, then proves", func(p *process, hour float64) error {
			if hour < 23 {
				return nil
			}
			return p.projects["b"].readWith(Proof{Own: "X"}, rows...)
		}, "a: Y/m=2; b: /m=1"},
		{"reads, then proves", func(p *process, hour float64) error {
			if hour < 23 {
				return p.projects["b"].readWith(ahead, rows...)
			}
			return p.projects["b"].readWith(Proof{Own: "X"}, rows...)
		}, "a: Y/m=2; b: /m=1"},
		{"reads, then cannot", func(p *process, hour float64) error {
			if hour < 5 {
				return p.projects["b"].readWith(ahead, rows...)
			}
			return p.projects["b"].readWith(Proof{}, rows...)
		}, "a: X/m=1 Y/m=2; b: "},
		{"fails", func(p *process, hour float64) error {
			p.projects["b"].set.Failed()
			return nil
		}, "a: X/m=1 Y/m=2; b: "},
		{"stays silent", func(*process, float64) error { return nil }, "a: ; b: "},
	} {
		p := newProcess(t, "a", "b")
		start := p.projects["a"].now
		since := func() time.Duration { return p.projects["a"].now.Sub(start) }
		for since() < awaitedFor-time.Minute {
			if err := c.b(p, since().Hours()); err != nil {
				t.Fatal(err)
			}
			p.read("a", "", rows...)
		}
		t.Log(c.what)
		p.expect(c.want)
		p.pass(time.Minute)
		p.read("a", "", rows...)
		if got := p.projects["a"].costs(); got == "" {
			t.Error("nothing is counted after a day")
		}
	}
}

// A project that goes on from its state has no initial sync that others would await.
func TestRestoredProjectsAreNotAwaited(t *testing.T) {
	p := newProcess(t, "a", "b")
	p.read("b", "X", row(0, "X", "m", 1))
	p.read("a", "")
	p.kill()
	p.pass(time.Hour)
	for range 2 {
		p.read("a", "", row(0, "X", "m", 1), row(0, "Y", "m", 2))
		p.pass(undecidedFor)
	}
	p.expect("a: Y/m=2; b: /m=1")
}

// A claim that is not committed holds others back, and is lost with the process.
func TestClaimIsDurableFirst(t *testing.T) {
	p := newProcess(t, "a", "b")
	a, b := p.projects["a"], p.projects["b"]
	from, _ := a.set.Window(a.now)
	if err := a.set.Apply([]opper.Usage{row(0, "X", "m", 1)}, from, true, Proof{Own: "X"}, a.now); err != nil {
		t.Fatal(err)
	}
	p.read("b", "", row(0, "X", "m", 1))
	if b.set.begun || !b.set.IsUndecided() {
		t.Error("b believes a claim that is not durable")
	}
	p.kill()
	p.read("b", "X", row(0, "X", "m", 1))
	p.read("a", "", row(0, "X", "m", 1))
	p.expect("a: ; b: /m=1")
}

// Where the first that sees an Opper project does not see it any more, another counts it.
func TestFirstSeerIsGone(t *testing.T) {
	for _, isRemoved := range []bool{false, true} {
		p := newProcess(t, "a", "b", "c")
		p.read("a", "", row(0, "X", "m", 1))
		p.read("b", "", row(0, "X", "m", 1))
		p.read("c", "")
		p.read("b", "", row(0, "X", "m", 1))
		p.pass(undecidedFor)
		if isRemoved {
			p.configure("b", "c")
		} else {
			p.read("b", "", row(0, "X", "m", 1))
			p.pass(undecidedFor)
		}
		p.read("b", "", row(0, "X", "m", 1))
		if got := p.projects["b"].costs(); got != "X/m=1" {
			t.Errorf("removed: %v: counted %s", isRemoved, got)
		}
	}
}

// What a project that is not configured any more has counted is not counted
// again by the one that takes over, nor by itself if it comes back.
func TestProjectIsRemoved(t *testing.T) {
	for _, killed := range []bool{false, true} {
		p := newProcess(t, "a", "b")
		p.read("a", "X", row(0, "X", "m", 1))
		p.read("b", "", row(0, "X", "m", 1))
		p.expect("a: /m=1; b: ")
		p.configure("b")
		if killed {
			p.kill()
		}
		p.pass(time.Hour)
		p.read("b", "", row(0, "X", "m", 1))
		p.expect("b: X/m=0")
		p.read("b", "", row(0, "X", "m", 3))
		p.expect("b: X/m=2")
		p.projects["a"].cfg.Owners = p.owners
		p.configure("b", "a")
		p.projects["a"].restart()
		p.pass(time.Hour)
		p.read("a", "X", row(0, "X", "m", 5))
		p.read("b", "", row(0, "X", "m", 5))
		p.expect("b: X/m=4; a: /m=1")
		if n := p.projects["a"].set.Corrections; n != 0 {
			t.Errorf("%d corrections of what another counts", n)
		}
		p.configure("a")
		p.pass(time.Hour)
		p.read("a", "X", row(0, "X", "m", 6))
		p.read("a", "X", row(0, "X", "m", 9))
		if got := p.projects["a"].costs(); !slices.Contains([]string{"/m=4", "/m=1 X/m=3"}, got) {
			t.Errorf("counted %s", got)
		}
	}
}

// A project whose usage is not read claims nothing new, and keeps what it has.
func TestProjectIsSwitchedOff(t *testing.T) {
	p := newProcess(t, "a", "b")
	p.read("a", "X", row(0, "X", "m", 1))
	a := p.projects["a"]
	p.owners = NewOwners("b")
	a.cfg.Owners = p.owners
	a.restart()
	if keys := a.commit(); len(keys) > 0 {
		t.Errorf("put %q", keys)
	}
	p.owners.SetProjects([]string{"a", "b"})
	a.restart()
	p.read("a", "", row(0, "X", "m", 3))
	if got := a.costs(); got != "/m=3" {
		t.Errorf("counted %s", got)
	}
}

// An answer without Opper projects is the sum of all also where the others have used nothing
// lately, or have rows of their own beside it at other times.
func TestSumOfAllIsNotCountedAgain(t *testing.T) {
	f := newFixture(t, Config{})
	readOwn := func(rows ...opper.Usage) {
		t.Helper()
		if err := f.readOf("X", rows...); err != nil {
			t.Fatal(err)
		}
	}
	readOwn(row(0, "X", "m", 3), row(0, "Y", "m", 2))
	f.now = f.now.Add(72 * time.Hour)
	readOwn(row(72, "X", "m", 5))
	f.expect("/m=8 Y/m=2")
	refused := func(rows ...opper.Usage) {
		t.Helper()
		want := f.costs()
		for range 3 {
			if err := f.read(rows...); err != nil && !errors.Is(err, errUngrouped) {
				t.Fatal(err)
			}
			f.expect(want)
		}
	}
	refused(row(72, "", "m", 6))
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7))
	f.expect("/m=8 (none)/m=7 Y/m=3")
	f.now = f.now.Add(5 * time.Hour)
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7))
	refused(row(72, "", "m", 13), row(77, "", "m", 1))
	readOwn(row(72, "X", "m", 5), row(72, "Y", "m", 1), row(72, "", "m", 7), row(77, "Y", "m", 1))
	f.expect("/m=8 (none)/m=7 Y/m=4")
}

// Nothing but the refusal of the group shows that an answer is the sum of all where only
// rows without an Opper project were seen for two days.
func TestSumOfAllAfterIdleDays(t *testing.T) {
	f := newFixture(t, Config{})
	old := []opper.Usage{row(0, "X", "m", 3), row(0, "", "m", 2)}
	f.mustRead(old...)
	f.now = f.now.Add(50 * time.Hour)
	f.mustRead(append(old, row(50, "", "m", 1))...)
	f.expect("/m=3 (none)/m=3")
	f.now = f.now.Add(time.Hour)
	from, _ := f.set.Window(f.now)
	if err := f.set.Apply([]opper.Usage{row(50, "", "m", 7)}, from, false, Proof{Own: "X"}, f.now); !errors.Is(err, errUngrouped) {
		t.Errorf("error is %v", err)
	}
	f.expect("/m=3 (none)/m=3")
}
