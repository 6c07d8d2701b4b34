package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// sample is what the process used at a time when nothing happened.
type sample struct {
	life   int
	at     time.Time
	values [3]float64
}

// metrics are the metrics of a sample, and by how much each may grow over the
// life of a process.
var metrics = [...]struct {
	metric, what string
	most, unit   float64
	unitName     string
}{
	{"go_goroutines{}", "goroutines", 25, 1, ""},
	{"process_open_fds{}", "descriptors", 15, 1, ""},
	{"process_resident_memory_bytes{}", "memory", 64 << 20, 1 << 20, " MiB"},
}

// sample takes one, if nothing has happened for a while.
func (v *watcher) sample(r *reading) {
	v.peak = max(v.peak, r.Rest["process_resident_memory_bytes{}"])
	if len(v.timeline.during(r.at.Add(-5*time.Second-v.scaled(20*time.Second)), r.at, harmless)) > 0 {
		return
	}
	s := sample{life: r.life, at: r.at}
	for i, h := range metrics {
		s.values[i] = r.Rest[h.metric]
	}
	v.samples = append(v.samples, s)
}

// leaks checks the process that lived longest, by a line through its samples
// after it has warmed up.
func (v *watcher) leaks() string {
	lives := map[int][]sample{}
	for _, s := range v.samples {
		lives[s.life] = append(lives[s.life], s)
	}
	var longest []sample
	for _, l := range lives {
		if lasts(l) > lasts(longest) {
			longest = l
		}
	}
	if len(longest) > 0 {
		from := longest[0].at.Add(lasts(longest) / 5)
		longest = slices.DeleteFunc(longest, func(s sample) bool { return s.at.Before(from) })
	}
	if len(longest) < 10 {
		return "too few quiet moments to tell"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "over %s of one process,", lasts(longest).Round(time.Second))
	for i, h := range metrics {
		grown := slope(longest, i) * lasts(longest).Seconds()
		if grown > h.most {
			v.promises.offend("leak", "%s grew by %.1f%s in %s", h.what, grown/h.unit, h.unitName, lasts(longest).Round(time.Second))
		}
		fmt.Fprintf(&text, " %s %+.1f%s (now %.0f)", h.what, grown/h.unit, h.unitName, longest[len(longest)-1].values[i]/h.unit)
	}
	return text.String()
}

func lasts(l []sample) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[len(l)-1].at.Sub(l[0].at)
}

// slope is that of the line with the least squares, in units a second.
func slope(l []sample, i int) float64 {
	var x, y, xx, xy float64
	n := float64(len(l))
	for _, s := range l {
		t := s.at.Sub(l[0].at).Seconds()
		x, y, xx, xy = x+t, y+s.values[i], xx+t*t, xy+t*s.values[i]
	}
	if d := n*xx - x*x; d > 0 {
		return (n*xy - x*y) / d
	}
	return 0
}
