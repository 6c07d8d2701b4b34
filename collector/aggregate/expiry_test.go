package aggregate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"opper_exporter/collector/ledger"
)

const expiry = time.Hour

func expiring() Config {
	cfg := testConfig()
	cfg.MaxNames, cfg.NameExpiry = 2, expiry
	return cfg
}

// listing says which traces are listed, and those of some names are pending.
type listing struct {
	listed  []ledger.ID
	pending []string
}

func (l listing) IsListed(id ledger.ID) bool { return slices.Contains(l.listed, id) }

func (l listing) Pending(f func(ledger.Row)) {
	for _, name := range l.pending {
		f(row(name))
	}
}

// endZero ends all zeros.
func endZero(s *Set) {
	for _, z := range s.ZeroPending() {
		z.EndZero()
	}
}

func labels(names []string) string { return strings.Join(names, " ") }

// A name expires that long after its last trace was counted, its zeros ended,
// or it was last known to have a pending trace; then a name that overflowed takes
// its place.
func TestExpire(t *testing.T) {
	s := summed(expiring(), counted(row("counted"), row("pending"), row("late")))
	equal(t, s.Distinct(), 3)
	expire := func(at time.Duration, pending ...string) string {
		return labels(s.Expire(now.Add(at), listing{pending: pending}))
	}
	expire(0)
	equal(t, expire(2*expiry), "") // no scraper has read what was counted
	endZero(s)
	equal(t, expire(2*expiry), "")
	s.Apply(counted(row("late")), now, now)
	equal(t, expire(3*expiry-1), "")
	equal(t, expire(3*expiry, "pending"), "counted")
	equal(t, expire(4*expiry-1), "")
	equal(t, s.Expired, 1)
	equal(t, s.Distinct(), 2)
	equal(t, traces(s), map[string]int{"pending": 1, Other: 2})

	s.Apply(counted(row("late")), now.Add(expiry), now.Add(expiry))
	equal(t, traces(s), map[string]int{"pending": 1, "late": 1, Other: 2})
	equal(t, s.Find("late").Created, now.Add(expiry))
	equal(t, s.Find("late").IsZeroPending(), true)
	equal(t, expire(4*expiry), "pending")
	endZero(s)
	expire(4 * expiry)
	s.Apply(ledger.Events{Vanished: []ledger.Row{row("late")}}, now, now)
	expire(5*expiry - 1)
	equal(t, expire(5*expiry), "")
	equal(t, expire(6*expiry), "late")
	equal(t, expire(100*expiry), "")
	equal(t, traces(s), map[string]int{Other: 2})
}

// A name keeps its place as long as its latest trace is listed, and for the expiry
// behind that, whichever order it was seen in, and whether it was counted.
func TestListedTraceKeepsItsName(t *testing.T) {
	earlier, later := row("ended"), row("ended")
	earlier.End, later.End = now.Add(-2*time.Hour), now.Add(-time.Hour)
	abandoned, seen := row("abandoned"), row("seen")
	abandoned.Start, abandoned.End = now.Add(-time.Hour), time.Time{}
	seen.Start = now.Add(-time.Hour)
	cfg := expiring()
	cfg.MaxNames = 3
	ev := counted(later, earlier, abandoned)
	ev.Counted[2].Abandoned = true
	ev.FirstSeen = []ledger.Row{seen}
	s, stored := summed(cfg, ev), map[string][]byte{}
	endZero(s)
	listed := listing{listed: []ledger.ID{later.ID, abandoned.ID, seen.ID}}
	equal(t, labels(s.Expire(now, listed)), "")
	save(s, stored)
	s, err := Restore(cfg, stored)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, labels(s.Expire(now.Add(100*expiry), listed)), "")
	listed.listed = listed.listed[:2]
	equal(t, labels(s.Expire(now.Add(101*expiry), listed)), "")
	equal(t, labels(s.Expire(now.Add(102*expiry-1), listed)), "")
	equal(t, labels(s.Expire(now.Add(102*expiry), listed)), "seen")
	listed.listed = []ledger.ID{earlier.ID}
	equal(t, labels(s.Expire(now.Add(200*expiry), listed)), "")
	equal(t, labels(s.Expire(now.Add(201*expiry), listed)), "abandoned ended")
}

func TestNoNameExpiresAfterZero(t *testing.T) {
	cfg := expiring()
	cfg.NameExpiry = 0
	s := summed(cfg, counted(row("a")))
	endZero(s)
	s.Expire(now, listing{})
	equal(t, labels(s.Expire(now.Add(1000*expiry), listing{})), "")
}

// An expiry that is not published is taken back, whether it is durable or not, as the
// series are still exposed. One that is lasts.
func TestExpiryIsPartOfACommit(t *testing.T) {
	s, stored := summed(expiring(), counted(row("a"), row("b"))), map[string][]byte{}
	endZero(s)
	s.Expire(now, listing{})
	save(s, stored)
	restore := func() {
		t.Helper()
		var err error
		if s, err = Restore(expiring(), stored); err != nil {
			t.Fatal(err)
		}
	}
	restore()
	equal(t, labels(s.Expire(now.Add(expiry), listing{})), "a b")
	a := counted(row("a"))
	s.Apply(a, now.Add(expiry), now.Add(expiry))
	equal(t, traces(s), map[string]int{"a": 2})
	equal(t, s.Expired, 1)
	save(s, stored)
	restore()
	equal(t, traces(s), map[string]int{"a": 2})
	equal(t, s.Expired, 1)

	s.Expire(now.Add(expiry), listing{})
	s.Expire(now.Add(2*expiry), listing{})
	save(s, stored)
	s.Apply(a, now.Add(2*expiry), now.Add(2*expiry))
	equal(t, traces(s), map[string]int{"a": 3})
	equal(t, s.Expired, 1)
	save(s, stored)
	restore()
	equal(t, traces(s), map[string]int{"a": 3})

	s.Expire(now.Add(2*expiry), listing{})
	s.Expire(now.Add(3*expiry), listing{})
	save(s, stored)
	s.Published()
	s.Apply(a, now.Add(3*expiry), now.Add(3*expiry))
	equal(t, traces(s), map[string]int{"a": 1})
	save(s, stored)
	restore()
	equal(t, traces(s), map[string]int{"a": 1})
	equal(t, s.Find("a").Created, now.Add(3*expiry))
	equal(t, s.Expired, 2)
}

// Of what is excluded by now, labels are removed whose names all are, whatever
// rewriting made of them, but not what also counts others, nor the overflow.
func TestRemoveExcluded(t *testing.T) {
	cfg := testConfig()
	cfg.MaxNames = 7
	cfg.Rewrites = []Rewrite{
		{regexp.MustCompile(`^team-(\d)$`), "team"},
		{regexp.MustCompile(`^solo-(\d)$`), "solo"},
		{regexp.MustCompile(`^kept-(\d)$`), "x-kept"},
		{regexp.MustCompile(`^user-(\d+)$`), "user"},
		{regexp.MustCompile(`^many-(\d+)$`), "many"},
	}
	rows := []ledger.Row{row("x"), row("team-1"), row("team-2"), row("solo-1"), row("kept-1"), row("y")}
	for i := range maxRaws + 1 {
		rows = append(rows, row(fmt.Sprint("user-", i%maxRaws)), row(fmt.Sprint("many-", i)))
	}
	s := summed(cfg, counted(append(rows, row("x-other"))...))
	stored := map[string][]byte{}
	save(s, stored)
	cfg.Exclude = regexp.MustCompile(`^(x.*|team-1|solo-1|user-.*|many-.*)$`)
	s, err := Restore(cfg, stored)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, labels(s.RemoveExcluded()), "solo user x")
	equal(t, labels(s.RemoveExcluded()), "")
	left := map[string]int{"team": 2, "x-kept": 1, "y": 1, "many": maxRaws + 1, Other: 1}
	equal(t, traces(s), left)
	equal(t, s.Expired, 0)
	save(s, stored)
	if s, err = Restore(cfg, stored); err != nil {
		t.Fatal(err)
	}
	equal(t, traces(s), left)
}
