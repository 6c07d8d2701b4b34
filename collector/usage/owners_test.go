package usage

import (
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
)

// A project that is configured alone counts all, and the only Opper project of the first
// answer is its own.
func TestSingleProject(t *testing.T) {
	x, y, none := row(0, "X", "m", 1), row(0, "Y", "m", 2), row(0, "", "m", 4)
	for _, c := range []struct {
		what  string
		reads [][]opper.Usage
		want  string
	}{
		{"one", [][]opper.Usage{{x}}, "/m=1"},
		{"one, then another", [][]opper.Usage{{x}, {x, y}}, "/m=1 Y/m=2"},
		{"none, then one, then another", [][]opper.Usage{{}, {x}, {x, y}}, "/m=1 Y/m=2"},
		{"two", [][]opper.Usage{{x, y}}, "X/m=1 Y/m=2"},
		{"two, then one", [][]opper.Usage{{x, y}, {row(0, "Z", "m", 7)}}, "X/m=1 Y/m=2 Z/m=7"},
		{"one and null", [][]opper.Usage{{x, none}}, "/m=5"},
		{"one, then null", [][]opper.Usage{{x}, {x, none}}, "/m=5"},
		{"one and null, then whose that is", [][]opper.Usage{{x}, {x, none}, {row(0, "X", "m", 5)}, {row(0, "X", "m", 6)}}, "/m=6"},
		{"one and null, then another", [][]opper.Usage{{x, none}, {x, y, none}, {row(0, "X", "m", 5), y}}, "/m=5 Y/m=2"},
		{"two and null", [][]opper.Usage{{x, y, none}}, "(none)/m=4 X/m=1 Y/m=2"},
		{"named as what we make up", [][]opper.Usage{{x, none, row(0, None, "m", 8)}}, `(none)/m=4 X/m=1 \(none)/m=8`},
		{"null", [][]opper.Usage{{none}}, "/m=4"},
		{"null, then whose it is", [][]opper.Usage{{none}, {row(0, "X", "m", 4)}, {row(0, "X", "m", 5)}}, "/m=5"},
		{"and again null", [][]opper.Usage{{none}, {row(0, "X", "m", 4)}, {row(0, "", "m", 5)}, {row(0, "X", "m", 6)}}, "/m=6"},
		{"one, then null only", [][]opper.Usage{{x}, {row(0, "", "m", 3)}, {row(0, "X", "m", 5)}}, "/m=5"},
		{"null, then partly whose", [][]opper.Usage{{none}, {x, row(0, "", "m", 3)}}, "/m=4"},
		{"null, then what it is the sum of", [][]opper.Usage{{none}, {x, row(0, "Y", "m", 3)}, {row(0, "X", "m", 2), row(0, "Y", "m", 5)}}, "/m=4 X/m=1 Y/m=2"},
	} {
		for _, restarts := range []bool{false, true} {
			f := newFixture(t, Config{})
			for _, rows := range c.reads {
				f.later(rows...)
				if restarts {
					f.restart()
				}
			}
			if got := f.costs(); got != c.want {
				t.Errorf("%s (restarts: %v): counted %s, want %s", c.what, restarts, got, c.want)
			}
		}
	}
}

// The project's own is the first that is found to be it, for good.
func TestOwnOpperProject(t *testing.T) {
	rows := []opper.Usage{row(0, "X", "m", 1), row(0, "Y", "m", 2), row(0, "Z", "m", 4)}
	f := newFixture(t, Config{})
	for n, own := range []string{"X", "Y", "Z"} {
		f.now = f.now.Add(time.Hour)
		if err := f.readOf(own, rows[:n+1]...); err != nil {
			t.Fatal(err)
		}
	}
	f.expect("/m=1 Y/m=2 Z/m=4")
	f = newFixture(t, Config{})
	if err := f.readOf("Y", rows...); err != nil {
		t.Fatal(err)
	}
	f.expect("/m=2 X/m=1 Z/m=4")
}

// What has only been seen of the last hours may have others beside it in earlier ones.
func TestNewOpperProjectIsReadInFull(t *testing.T) {
	all := []opper.Usage{row(-20, "", "m", 100), row(0, "X", "m", 1), row(-20, "X", "m", 10), row(-20, "Y", "m", 20)}
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "m", 1))
	f.mustRead(all...) // of the last two hours
	f.expectWindow("as all are known", noon.Add(-time.Hour))
	all = append(all, row(0, "Y", "m", 2), row(0, "", "m", 200))
	f.mustRead(all...)
	f.expect("/m=1")
	if !f.set.IsUndecided() {
		t.Error("all is decided")
	}
	f.expectWindow("once one is not", noon.Add(-48*time.Hour))
	f.mustRead(all...)
	f.expect("/m=11 (none)/m=300 Y/m=22")
	if f.set.IsUndecided() {
		t.Error("something is undecided")
	}
}

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
	for _, name := range p.names {
		if !slices.Contains(names, name) {
			p.projects[name].set.HandOver()
		}
	}
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
	p.expect("a: /m=6; b: /m=5; c: ")
	p.read("c", "")
	p.read("c", "", row(0, "Z", "m", 4))
	p.expect("a: /m=6; b: /m=5; c: /m=4")
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
		p.expect("a: /m=5") // b has counted the other 4
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
