package usage

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/opper"
)

// fixture is a Set, and what is stored of it.
type fixture struct {
	t       *testing.T
	cfg     Config
	set     *Set
	now     time.Time
	entries map[string][]byte
}

// noon is when most tests begin, and at the same time their hour 0.
var noon = time.Date(2026, 10, 10, 12, 0, 0, 0, time.UTC)

func newFixture(t *testing.T, cfg Config) *fixture {
	t.Helper()
	if cfg.Project == "" {
		cfg.Project = "a"
	}
	if cfg.MaxModels == 0 {
		cfg.MaxModels = 50
	}
	if cfg.MaxOpperProjects == 0 {
		cfg.MaxOpperProjects = 100
	}
	return &fixture{t: t, cfg: cfg, set: New(cfg), now: noon.Add(10 * time.Minute), entries: map[string][]byte{}}
}

// row is usage in an hour since noon. Of an Opper project "X", "" is none.
func row(hour int, project, model string, cost int64) opper.Usage {
	return opper.Usage{Bucket: noon.Add(time.Duration(hour) * time.Hour), Project: project, Model: model, Cost: cost, Calls: 1, InputTokens: 10 * cost, OutputTokens: cost}
}

// read applies those of the rows that are in the window, and commits.
func (f *fixture) read(rows ...opper.Usage) error { return f.readOf("", rows...) }

func (f *fixture) readOf(own string, rows ...opper.Usage) error {
	f.t.Helper()
	return f.readWith(Proof{Own: own}, rows...)
}

func (f *fixture) readWith(proof Proof, rows ...opper.Usage) error {
	f.t.Helper()
	from, to := f.set.Window(f.now)
	rows = slices.DeleteFunc(slices.Clone(rows), func(u opper.Usage) bool { return u.Bucket.Before(from) || !u.Bucket.Before(to) })
	err := f.set.Apply(rows, from, true, proof, f.now)
	f.commit()
	f.now = f.now.Add(time.Minute)
	return err
}

// mustRead reads, and does not fail.
func (f *fixture) mustRead(rows ...opper.Usage) {
	f.t.Helper()
	if err := f.read(rows...); err != nil {
		f.t.Fatal(err)
	}
}

// later is a read in another hour, so of all that is not final.
func (f *fixture) later(rows ...opper.Usage) {
	f.t.Helper()
	f.now = f.now.Add(time.Hour)
	f.mustRead(rows...)
}

func (f *fixture) commit() (keys []string) {
	f.set.Changes(func(key string, body []byte) {
		keys = append(keys, key)
		if f.entries[key] = body; body == nil {
			delete(f.entries, key)
		}
	})
	f.set.Committed()
	slices.Sort(keys)
	return keys
}

// restart restores what is stored.
func (f *fixture) restart() {
	f.t.Helper()
	set, err := Restore(f.cfg, f.entries)
	if err != nil {
		f.t.Fatal(err)
	}
	f.set = set
}

// costs returns what is exposed, once all zeros have been read.
func (f *fixture) costs() string {
	for _, z := range f.set.ZeroPending() {
		z.EndZero()
	}
	var all []string
	for _, m := range f.set.Models() {
		all = append(all, fmt.Sprintf("%s/%s=%d", m.OpperProject, m.Label, m.Exposed()[Cost]))
	}
	return strings.Join(all, " ")
}

func (f *fixture) expect(want string) {
	f.t.Helper()
	if got := f.costs(); got != want {
		f.t.Errorf("counted: %s, want %s", got, want)
	}
}

func (f *fixture) expectWindow(what string, from time.Time) {
	f.t.Helper()
	got, to := f.set.Window(f.now)
	if !got.Equal(from) || to.Before(f.now.Add(24*time.Hour)) || to.Truncate(time.Hour) != to {
		f.t.Errorf("%s: window is from %v to %v, want it from %v to a day ahead", what, got, to, from)
	}
}

func TestWindow(t *testing.T) {
	day := 24 * time.Hour
	month := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	f := newFixture(t, Config{})
	f.expectWindow("at first", month)
	f.now = f.now.In(time.FixedZone("", -9*3600))
	f.expectWindow("in another zone", month)
	f.mustRead(row(0, "X", "m", 1))
	f.expectWindow("in the same hour", noon.Add(-time.Hour))
	f.now = noon.Add(time.Hour)
	f.expectWindow("in the next hour", noon.Add(-48*time.Hour))
	f.mustRead(row(1, "X", "m", 1))
	f.expectWindow("after that", noon)
	f.now = noon.Add(5 * day)
	f.expectWindow("after 5 days", noon.Add(-47*time.Hour))
	f.restart()
	f.expectWindow("after 5 days and a restart", noon.Add(-47*time.Hour))
	f.mustRead(row(120, "X", "m", 1), row(2, "X", "m", 5))
	f.expect("/m=8")
	f.expectWindow("after those", noon.Add(5*day-time.Hour))
	// Nothing is used for a day, so the newest hour is an old one: it may still grow.
	f.later()
	f.now = noon.Add(6 * day)
	f.later()
	f.expectWindow("without changes", noon.Add(5*day-time.Hour))
	// Our clock is wrong.
	f.now = noon.Add(3 * day)
	f.expectWindow("back", noon.Add(3*day))
	f.mustRead(row(121, "X", "m", 1))
	f.now = noon.Add(60 * day)
	f.expectWindow("ahead", noon.Add(3*day))
	f.mustRead(row(122, "X", "m", 1))
	f.expect("/m=10")
}

// The newest hour may be ahead of our clock, as that is slow, or as some rows are in hours
// to come. These count, and end nothing.
func TestNewestHourAhead(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(20, "X", "m", 1), row(-40, "X", "m", 1))
	f.expect("/m=2")
	f.expectWindow("in the same hour", noon.Add(-time.Hour))
	for _, m := range f.set.Models() {
		if m.Created.After(f.now) {
			t.Errorf("created at %v", m.Created)
		}
	}
	f.later(row(20, "X", "m", 3), row(-40, "X", "m", 9), row(40, "X", "m", 1))
	f.later(row(20, "X", "m", 3), row(-40, "X", "m", 9), row(40, "X", "m", 1), row(60, "X", "m", 1))
	f.expect("/m=14")
	f.now = noon.Add(30 * time.Hour) // when our clock is right, or Opper's hours have come
	f.mustRead(row(20, "X", "m", 3), row(-40, "X", "m", 9), row(-17, "X", "m", 1), row(40, "X", "m", 1), row(60, "X", "m", 1))
	f.expect("/m=15")
	f.later(row(-40, "X", "m", 50), row(-17, "X", "m", 2), row(20, "X", "m", 3), row(40, "X", "m", 1), row(60, "X", "m", 1))
	f.expect("/m=16")
}

// Rows in hours to come, however far they reach, keep no real hour from being counted.
func TestHoursToCome(t *testing.T) {
	f := newFixture(t, Config{})
	var rows []opper.Usage
	for h := 20; h <= 100; h += 20 {
		rows = append(rows, row(h, "X", "m", 1))
	}
	for h := range 10 {
		f.later(rows...)
		rows = append(rows, row(h, "X", "n", 1))
	}
	f.later(rows...)
	f.expect("/m=5 /n=10")
}

// What the month before has is not counted, however it comes.
func TestMonth(t *testing.T) {
	f := newFixture(t, Config{})
	f.now = time.Date(2026, 10, 31, 23, 59, 0, 0, time.UTC)
	f.expectWindow("at the end of the month", time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC))
	f.mustRead()
	f.now = time.Date(2026, 11, 1, 0, 0, 30, 0, time.UTC)
	f.expectWindow("before there was any usage", time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC))
	late := opper.Usage{Bucket: time.Date(2026, 10, 31, 23, 0, 0, 0, time.UTC), Model: "m", Cost: 1}
	f.mustRead(late)
	f.expect("/m=1")
	f.now = time.Date(2026, 11, 1, 1, 0, 30, 0, time.UTC)
	late.Cost = 3
	f.mustRead(late, opper.Usage{Bucket: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Model: "m", Cost: 5})
	f.expect("/m=8")

	f = newFixture(t, Config{})
	f.now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	f.expectWindow("at the begin of the month", f.now)
}

// Hours before the border have been forgotten, so rows of them count nothing.
func TestFinalHours(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(-60, "X", "m", 1), row(0, "X", "m", 1))
	if err := f.set.Apply([]opper.Usage{row(-60, "X", "m", 1), row(-60, "Y", "m", 1), row(-48, "X", "m", 1)}, noon.Add(-60*time.Hour), true, Proof{}, f.now); err != nil {
		t.Fatal(err)
	}
	f.expect("/m=3")
}

func TestLookback(t *testing.T) {
	rows := []opper.Usage{row(-30, "X", "m", 1), row(-24, "X", "m", 2), row(0, "X", "m", 4)}
	grown := append(slices.Clone(rows[:2]), row(0, "X", "m", 5))
	day, none, long := 24*time.Hour, time.Duration(0), 300*24*time.Hour
	for _, c := range []struct {
		lookback *time.Duration
		from     time.Time
		created  time.Time
		want     [2]string
	}{
		{nil, time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), noon.Add(-30 * time.Hour), [2]string{"/m=7", "/m=8"}},
		{&long, time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), noon.Add(-30 * time.Hour), [2]string{"/m=7", "/m=8"}},
		{&day, noon.Add(-day), noon.Add(-day), [2]string{"/m=6", "/m=7"}},
		{&none, noon, noon.Add(10 * time.Minute), [2]string{"/m=0", "/m=1"}},
	} {
		f := newFixture(t, Config{Lookback: c.lookback})
		f.expectWindow("at first", c.from)
		f.mustRead(rows...)
		f.expect(c.want[0])
		if m := f.set.Models()[0]; !m.Created.Equal(c.created) || m.zeroPending {
			t.Errorf("created at %v, want %v; starts zero-first: %v", m.Created, c.created, m.zeroPending)
		}
		f.restart()
		f.mustRead(rows...)
		f.expect(c.want[0])
		f.later(grown...)
		f.expect(c.want[1])
	}
}

// Nothing is lost or shown if the first read fails, or what it counted can't be committed.
func TestFirstReadFails(t *testing.T) {
	f := newFixture(t, Config{})
	from, to := f.set.Window(f.now)
	src := &cutSource{rows: []opper.Usage{row(-200, "X", "m", 1), row(0, "X", "m", 1)}, maxRows: 1, failAfter: 2}
	if rows, err := new(Pages).Read(t.Context(), src, from, to, opper.GroupModel); err == nil || rows != nil {
		t.Fatalf("read %v, %v", rows, err)
	}
	f.set.Failed()
	f.expect("")
	if keys := f.commit(); len(keys) > 0 {
		t.Errorf("put %q", keys)
	}
	if err := f.set.Apply(src.rows, from, true, Proof{}, f.now); err != nil {
		t.Fatal(err)
	}
	f.expect("/m=2")
	f.restart() // not committed
	f.expect("")
	f.expectWindow("again", from)
	f.mustRead(src.rows...)
	f.expect("/m=2")
}

// A model that is new since the first read starts zero-first, created at the one before.
func TestZeroFirst(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(-3, "X", "m", 1), row(0, "X", "m", 1))
	if m := f.set.Models()[0]; m.zeroPending || m.Exposed()[Cost] != 2 || !m.Created.Equal(noon.Add(-3*time.Hour)) {
		t.Errorf("history: %+v", m)
	}
	before := f.now.Add(-time.Minute)
	f.mustRead(row(-3, "X", "m", 1), row(0, "X", "m", 1), row(0, "X", "n", 5))
	m := f.set.Models()[1]
	if !m.zeroPending || m.Exposed() != (Amounts{}) || !m.Created.Equal(before) {
		t.Errorf("new: %+v, want it created at %v", m, before)
	}
	f.restart()
	m = f.set.Models()[1]
	if m.Exposed() != (Amounts{}) {
		t.Errorf("after a restart: %+v", m)
	}
	m.EndZero()
	if m.Exposed() != (Amounts{5, 1, 50, 5}) {
		t.Errorf("exposed: %v", m.Exposed())
	}
	if keys := f.commit(); !slices.Equal(keys, []string{keyCounters}) {
		t.Errorf("put %q", keys)
	}
	f.restart()
	if m := f.set.Models()[1]; m.zeroPending {
		t.Error("zeros come back")
	}
}

// Places go by cost at first, ties by name, and then by arrival.
func TestPlaces(t *testing.T) {
	f := newFixture(t, Config{MaxModels: 3})
	f.mustRead(row(0, "X", "b", 5), row(-1, "X", "c", 2), row(0, "X", "c", 3), row(0, "X", "a", 5), row(0, "X", "d", 4), row(0, "X", "", 1))
	f.expect("/(other)=5 /a=5 /b=5 /c=5")
	f.mustRead(row(-1, "X", "c", 2), row(0, "X", "d", 9), row(0, "X", "b", 5), row(0, "X", "c", 3), row(0, "X", "a", 5), row(0, "X", "", 1))
	f.expect("/(other)=10 /a=5 /b=5 /c=5")
	f.cfg.MaxModels = 4
	f.restart()
	f.mustRead(row(-1, "X", "c", 2), row(0, "X", "d", 10), row(0, "X", "b", 5), row(0, "X", "c", 3), row(0, "X", "a", 5), row(0, "X", "", 2))
	f.expect("/(none)=1 /(other)=11 /a=5 /b=5 /c=5")
}

// The Opper projects with the highest cost of the first read have series of their own,
// ties by UUID, and later ones by arrival; beside the project's own, and rows without any.
func TestOpperProjectPlaces(t *testing.T) {
	f := newFixture(t, Config{MaxOpperProjects: 2})
	rows := []opper.Usage{row(0, "W", "m", 1), row(-1, "X", "m", 2), row(0, "Y", "m", 3), row(0, "Z", "m", 3), row(0, "Z", "n", 1), row(0, "", "m", 9)}
	if err := f.readOf("W", rows...); err != nil {
		t.Fatal(err)
	}
	f.expect("/m=1 (none)/m=9 (other)/m=2 Y/m=3 Z/m=3 Z/n=1")
	f.restart()
	f.later(append(rows, row(0, "X", "m", 10), row(0, "V", "m", 20), row(0, "V", "k", 20))...)
	f.expect("(other)/k=20 /m=1 (none)/m=9 (other)/m=32 Y/m=3 Z/m=3 Z/n=1")
	f.cfg.MaxOpperProjects = 3
	f.restart()
	f.later(append(rows, row(0, "X", "m", 11), row(0, "V", "m", 20), row(0, "V", "k", 20), row(0, "U", "m", 7))...)
	f.expect("(other)/k=20 /m=1 (none)/m=9 (other)/m=33 U/m=7 Y/m=3 Z/m=3 Z/n=1")
}

func TestModelLabels(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "", 1), row(0, "X", None, 2), row(0, "X", "(other)", 3), row(0, "X", `\x`, 4), row(0, "X", "(unnamed)", 5))
	f.expect(`/(none)=1 /(unnamed)=5 /\(none)=2 /\(other)=3 /\\x=4`)
}

func TestCorrections(t *testing.T) {
	f := newFixture(t, Config{})
	for i, c := range []struct {
		rows        []opper.Usage
		want        string
		corrections uint64
	}{
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 4)}, "/m=9", 0}, // twice the same
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 3)}, "/m=9", 1},
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 2)}, "/m=9", 1},
		{nil, "/m=9", 1}, // gone
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 4)}, "/m=9", 1},
		{nil, "/m=9", 2},
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 6)}, "/m=11", 2},
		{[]opper.Usage{row(0, "X", "m", 5), row(0, "X", "m", 6), row(0, "X", "n", -7)}, "/m=11 /n=0", 3},
	} {
		f.mustRead(c.rows...)
		f.expect(c.want)
		if f.set.Corrections != c.corrections {
			t.Errorf("%d: %d corrections, want %d", i, f.set.Corrections, c.corrections)
		}
		f.restart()
	}
}

func TestSaturation(t *testing.T) {
	f := newFixture(t, Config{})
	f.mustRead(row(0, "X", "m", 1), opper.Usage{Bucket: noon, Project: "X", Model: "m", Cost: math.MaxInt64, Calls: math.MinInt64})
	f.mustRead(row(0, "X", "m", 1), opper.Usage{Bucket: noon, Project: "X", Model: "m", Cost: math.MaxInt64}, opper.Usage{Bucket: noon.Add(time.Hour), Project: "X", Model: "m", Cost: 9})
	if got := f.set.Models()[0].Exposed(); got != (Amounts{math.MaxInt64, 1, 10, 1}) {
		t.Errorf("counted %v", got)
	}
}
