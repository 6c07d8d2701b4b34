package collector

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"

	"opper_exporter/collector/config"
	"opper_exporter/collector/ledger"
	"opper_exporter/collector/storetest"
	"opper_exporter/opper/oppertest"
)

// observer notes what a Collector counts, by project.
type observer struct {
	mu      sync.Mutex
	counted map[string]map[ledger.ID]int
}

func (o *observer) observe(project string, counted []ledger.Counted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counted == nil {
		o.counted = map[string]map[ledger.ID]int{}
	}
	if o.counted[project] == nil {
		o.counted[project] = map[ledger.ID]int{}
	}
	for i := range counted {
		o.counted[project][counted[i].ID]++
	}
}

// All projects are read once, and all that is counted is observed. The state that is
// left knows which traces those are.
func TestReadOnceObservesAllThatItCounts(t *testing.T) {
	f := newFleet(t)
	f.opper("one", 250)
	f.opper("two", 3)
	f.opper("two", 0).Add(oppertest.Trace{ID: "open", Name: new("open"), Start: new(time.Now())})
	seen := new(observer)
	var err error
	f.c, err = New([]config.Project{f.project("one"), f.project("two")}, Deps{Logger: log.NewNopLogger(), Clock: NewClock(), Store: f.store, Observe: seen.observe})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.c.ReadOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	for project, want := range map[string]int{"one": 250, "two": 3} {
		published := 0.0
		for _, n := range f.counted(f.c.find(project)) {
			published += n
		}
		if published != float64(want) {
			t.Errorf("%v traces of %s are published, want %d", published, project, want)
		}
		known, err := ReadKnown(f.store, project)
		if err != nil {
			t.Fatal(err)
		}
		if len(seen.counted[project]) != want {
			t.Errorf("%d traces of %s are observed, want %d", len(seen.counted[project]), project, want)
		}
		for id, times := range seen.counted[project] {
			if counted, abandoned := known.HasCounted(id); times != 1 || !counted || abandoned {
				t.Fatalf("trace %s was observed %d times; counted %t, abandoned %t", id, times, counted, abandoned)
			}
		}
		if counted, _ := known.HasCounted(ledger.KeyOf("open")); counted {
			t.Error("an open trace was counted")
		}
	}
}

// A sync that fails is followed by another one as long as that reads more: the list may
// take longer than Opper goes without trouble.
func TestReadOnceContinuesWhatFailed(t *testing.T) {
	f := newFleet(t)
	o := f.opper("one", 1000)
	seen := new(observer)
	project := f.project("one")
	project.Concurrency = 1
	var err error
	if f.c, err = New([]config.Project{project}, Deps{Logger: log.NewLogfmtLogger(&f.log), Clock: NewClock(), Observe: seen.observe}); err != nil {
		t.Fatal(err)
	}
	// Refused at once, without retries.
	refused := map[int]bool{}
	o.Fail(oppertest.Fault{
		Match: func(r oppertest.Request) bool {
			fails := r.ID == "" && (r.Offset/100)%3 == 2 && !refused[r.Offset/100]
			refused[r.Offset/100] = true
			return fails
		},
		Times:  -1,
		Answer: oppertest.Respond(http.StatusUnauthorized, "application/json", `{}`),
	})
	if err := f.c.ReadOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(seen.counted["one"]); n != 1000 {
		t.Errorf("%d traces are observed", n)
	}
	for id, times := range seen.counted["one"] {
		if times != 1 {
			t.Errorf("%s was observed %d times", id, times)
		}
	}
	if n := len(f.log.Lines("sync failed")); n == 0 {
		t.Error("no sync has failed")
	}
}

// Nothing is tried for ever: what is refused, a store that can't commit, and the end of
// the context are errors.
func TestReadOnceFails(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		fault oppertest.Answer
		store Store
		want  string
	}{
		"refused":  {t.Context(), oppertest.Respond(http.StatusUnauthorized, "application/json", `{}`), nil, `project "one": `},
		"no room":  {t.Context(), nil, &commits{Memory: new(storetest.Memory), refused: errors.New("no space left on device")}, "no space left on device"},
		"canceled": {canceled, nil, nil, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			o := f.opper("one", 10)
			if c.fault != nil {
				o.Fail(oppertest.Fault{Answer: c.fault, Times: -1})
			}
			var err error
			if f.c, err = New([]config.Project{f.project("one")}, Deps{Logger: log.NewNopLogger(), Clock: NewClock(), Store: c.store}); err != nil {
				t.Fatal(err)
			}
			if err := f.c.ReadOnce(c.ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if got := f.counted(f.c.find("one")); len(got) != 0 {
				t.Errorf("published %v", got)
			}
		})
	}
}
