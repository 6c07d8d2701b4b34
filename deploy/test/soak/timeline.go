package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// window is a time in which something went on.
type window struct {
	what       string
	trouble    trouble
	start, end time.Time // end is zero while it goes on
}

// trouble says what a window may do to a sync.
type trouble int

const (
	harmless trouble = iota // syncs succeed
	failing                 // syncs may fail, and are complete if they don't
	lying                   // what a sync sees may not be what is listed
)

// timeline is what went on when.
type timeline struct {
	mu      sync.Mutex
	windows []*window
}

// begin opens a window; the function that it returns closes it.
func (t *timeline) begin(what string, trouble trouble) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &window{what: what, trouble: trouble, start: time.Now()}
	t.windows = append(t.windows, w)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		w.end = time.Now()
	}
}

// during returns the windows of at least some trouble that share a moment with
// the time from one instant to another.
func (t *timeline) during(from, to time.Time, least trouble) []window {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []window
	for _, w := range t.windows {
		if w.trouble >= least && !w.start.After(to) && (w.end.IsZero() || !w.end.Before(from)) {
			out = append(out, *w)
		}
	}
	return out
}

// now names what goes on.
func (t *timeline) now() string {
	now := time.Now()
	var names []string
	for _, w := range t.during(now, now, harmless) {
		names = append(names, w.what)
	}
	return strings.Join(names, " + ")
}

// count tells how often each thing happened.
func (t *timeline) count() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := map[string]int{}
	for _, w := range t.windows {
		what, _, _ := strings.Cut(w.what, ":")
		n[what]++
	}
	var parts []string
	for what, n := range n {
		parts = append(parts, fmt.Sprintf("%d × %s", n, what))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// promises takes note of those that are broken.
type promises struct {
	out   io.Writer
	began time.Time

	mu     sync.Mutex
	broken []string
	kinds  map[string]int
}

// maxOfKind is how many lines there are of one kind of offence.
const maxOfKind = 10

// offend notes that a promise was broken, and prints it.
func (p *promises) offend(kind, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kinds == nil {
		p.kinds = map[string]int{}
	}
	if p.kinds[kind]++; p.kinds[kind] > maxOfKind {
		return
	}
	line := fmt.Sprintf("%s: %s", kind, fmt.Sprintf(format, args...))
	p.broken = append(p.broken, line)
	_, _ = fmt.Fprintf(p.out, "%s BROKEN %s\n", p.clock(), line)
}

// say prints a line for a person.
func (p *promises) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "%s %s\n", p.clock(), fmt.Sprintf(format, args...))
}

func (p *promises) clock() string {
	d := time.Since(p.began)
	return fmt.Sprintf("%3d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// list returns all offences, and how many more there were of each kind.
func (p *promises) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.broken)
	for kind, n := range p.kinds {
		if n > maxOfKind {
			out = append(out, fmt.Sprintf("%s: and %d more", kind, n-maxOfKind))
		}
	}
	return out
}
