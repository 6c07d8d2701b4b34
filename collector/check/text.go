package check

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"opper_exporter/collector/aggregate"
	"opper_exporter/opper"
)

const (
	// width is that of a terminal; values that were read may be longer.
	width = 80
	// column is where values begin.
	column = 14
	// shownNames is how many names are shown.
	shownNames = 5
	// maxShown bounds a value that was read, in runes.
	maxShown = 60
)

// text is written line by line.
type text struct{ strings.Builder }

// line writes a label and a value, which is wrapped.
func (w *text) line(label, format string, args ...any) {
	w.wrap("  "+label+strings.Repeat(" ", column-len(label)), strings.Repeat(" ", column+2), fmt.Sprintf(format, args...))
}

// row is a line of a table.
type row struct {
	name string
	n    int
	rest string
}

// table writes the first rows of a table below a value, and how many there are more.
func (w *text) table(rows []row, limit int) {
	shown, most := rows[:min(len(rows), limit)], 0
	for _, r := range shown {
		most = max(most, utf8.RuneCountInString(r.name))
	}
	for _, r := range shown {
		w.WriteString(strings.TrimRight(fmt.Sprintf("%*s%-*s  %6d  %s", column+4, "", most, r.name, r.n, r.rest), " ") + "\n")
	}
	if more := len(rows) - len(shown); more > 0 {
		w.line("", "  and %d more", more)
	}
}

// wrap writes words behind first, and behind rest in further lines.
func (w *text) wrap(first, rest, words string) {
	line := first
	used := 0 // words in the line
	for word := range strings.FieldsSeq(words) {
		if used > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			w.WriteString(line + "\n")
			line, used = rest, 0
		}
		if used > 0 {
			line += " "
		}
		line += word
		used++
	}
	w.WriteString(line + "\n")
}

// Text returns the report for people.
func (r *Report) Text() string {
	w := &text{}
	w.WriteString("Project " + r.Project + "\n\n")
	w.line("URL", "%s", r.URL)
	if r.Filter != "" {
		w.line("Name filter", "%s", r.Filter)
	}
	accepted := "not verified"
	if r.Key.Accepted != nil {
		accepted = map[bool]string{true: "accepted", false: "refused"}[*r.Key.Accepted]
	}
	w.line("Key", "%s, from %s", accepted, r.Key.Origin)
	if r.List != nil {
		r.writeList(w)
		r.writeState(w)
	}
	if r.Traffic != nil {
		r.writeTraffic(w)
	}
	if r.Usage != nil {
		r.writeUsage(w)
	}
	for _, part := range []struct {
		title    string
		findings []Finding
	}{{"Notes", r.Notes}, {"Problems", r.Problems}} {
		if len(part.findings) > 0 {
			w.WriteString("\n" + part.title + "\n\n")
		}
		for _, f := range part.findings {
			w.wrap("  - ", "    ", f.Text)
			w.wrap("    ", "    ", f.Advice)
			for _, flag := range f.Flags {
				w.WriteString("      " + flag + "\n") // in one piece, to be copied
			}
		}
	}
	if len(r.Problems) == 0 {
		w.WriteString("\nNo problem found.\n")
	}
	return w.String()
}

func (r *Report) writeList(w *text) {
	l, s := r.List, r.Sample
	if s.Traces == 0 {
		w.line("Traces", "none listed")
		return
	}
	listed := "unknown number"
	if l.Listed != nil {
		listed = strconv.Itoa(*l.Listed)
	}
	read := "all read"
	if !s.Complete {
		read = fmt.Sprintf("%d read as a sample", s.Traces)
	}
	w.line("Traces", "%s listed, %s, in %s", listed, read, plural(s.Requests, "request"))
	if l.Oldest != nil {
		w.line("Started", "%s to %s", l.Oldest.UTC().Format(time.DateTime), l.Newest.UTC().Format(time.DateTime+" MST"))
	}
	w.line("Order", "%s", l.Order)
	ended := fmt.Sprintf("%d ended, %d open", l.Ended, l.Open)
	if l.Excluded > 0 {
		ended += fmt.Sprintf(", %d excluded by name", l.Excluded)
	}
	if l.NoID > 0 {
		ended += fmt.Sprintf(", %d without an id", l.NoID)
	}
	w.line("Sample", "%s", ended)
	if l.Ended > 0 {
		w.line("Statuses", "of those that ended, and the outcome:")
		r.writeStatuses(w)
		w.line("Tokens", "missing in %d of %d", l.NoTokens, l.Ended)
		w.line("Durations", "missing in %d, negative in %d of %d", l.NoLength, l.BadLength, l.Ended)
	}
	if len(l.Names) == 0 {
		return
	}
	seen := strconv.Itoa(len(l.Names))
	if !s.Complete {
		seen += " seen"
	}
	w.line("Names", "%s, the limit is %d:", seen, l.MaxNames)
	var rows []row
	for _, n := range l.Names {
		rows = append(rows, row{n.Name, n.Traces, ""})
	}
	w.table(rows, shownNames)
}

func (r *Report) writeStatuses(w *text) {
	var rows []row
	for _, s := range r.List.Statuses {
		switch {
		case s.Status == "":
			rows = append(rows, row{"none", s.Traces, s.Outcome})
		case s.Mapped:
			rows = append(rows, row{`"` + s.Status + `"`, s.Traces, s.Outcome})
		default:
			rows = append(rows, row{`"` + s.Status + `"`, s.Traces, s.Outcome + " (in neither list)"})
		}
	}
	w.table(rows, aggregate.MaxUnmapped+6) // those that are mapped by default
}

func (r *Report) writeState(w *text) {
	s := r.State
	if s.Path != "" {
		w.WriteString("  Storage path  " + clean(s.Path) + "\n") // in one piece
	}
	text := s.Result
	switch s.Result {
	case stateNone:
		text = "none yet"
	case stateInUse:
		text = "in use by another process, so not compared"
	case stateUnusable:
		text = "cannot be used"
	case stateSame:
		text = fmt.Sprintf("of this list: it knows %d of the %d traces that were read", s.Known, r.Sample.Traces)
	case stateOther:
		text = "of another upstream"
	case stateUntold:
		text = "not comparable: no trace that was read is known, but they may be new"
	}
	w.line("State", "%s", text)
}

func (r *Report) writeTraffic(w *text) {
	t := r.Traffic
	rows := opper.PageSize
	if r.List.Listed != nil {
		rows = min(rows, *r.List.Listed)
	}
	w.line("Size", "%s per trace, %s per page of %d", size(t.TraceBytes), size(t.PageBytes), rows)
	initial := ""
	switch r.State.Result {
	case stateSame:
		initial = "not needed: the exporter continues from its state. Without it: "
	case stateInUse:
		initial = "done or running. Without a state: "
	}
	w.line("Initial sync", initial+"about %s, %s, %s", short(time.Duration(t.InitialSeconds*float64(time.Second))), plural(t.InitialRequests, "request"), size(t.InitialBytes))
	idle := ""
	if t.SweepBytes > 0 {
		idle = fmt.Sprintf(" (%s of it by sweeps)", size(t.SweepBytes))
	}
	w.line("Traffic", "%s a day when idle%s", size(t.IdleBytes), idle)
	w.line("", "up to %s a day at the rate of the newest traces, %s a day", size(t.BusyBytes), rounded(t.TracesPerDay))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// size returns bytes in two digits or three.
func size(bytes float64) string { return humanize.Bytes(uint64(bytes)) }

// rounded returns a number in two digits, as it is an estimate.
func rounded(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.2g", x)
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return fmt.Sprintf("%.0f", math.Round(x/unit)*unit)
}

// short returns a duration in about two digits.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// printable returns a value that was read, cleaned and cut.
func printable(value string) string {
	value = clean(value)
	if runes := []rune(value); len(runes) > maxShown {
		return string(runes[:maxShown-1]) + "…"
	}
	return value
}

// clean returns a value without what could change the terminal.
func clean(value string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, value)
}
