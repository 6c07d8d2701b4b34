package aggregate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Labels that stand for something other than one real name.
const (
	Unnamed = "(unnamed)"
	Other   = "(other)"
)

const (
	maxLabel  = 128 // bytes
	maxName   = 1000
	maxStatus = maxLabel

	// boundMark ends the names that BoundName has made. No valid UTF-8 has it.
	boundMark = "\xff"
)

var cutLabel = regexp.MustCompile(`~[0-9a-f]{8}$`)

// Rewrite makes one name of those that a pattern matches. References in the
// replacement, as $1 or ${name}, stand for what a group of the pattern matched.
type Rewrite struct {
	Pattern     *regexp.Regexp
	Replacement string
}

// A name is resolved once for all its traces, as patterns and hashes cost more
// than all else that is done for a trace. Programs can make up any number of
// names of any length, so the cache is bounded.
const (
	maxResolved     = 10_000
	maxResolvedSize = 256 // bytes
)

// resolved says where the traces of a name are counted.
type resolved struct {
	wanted bool
	label  string     // where they are counted, if there is a place
	name   *Aggregate // where they are counted, once that is decided
}

func (s *Set) resolve(raw string) *resolved {
	if r, ok := s.resolved[raw]; ok {
		return r
	}
	r := s.cfg.resolve(raw)
	if len(raw) <= maxResolvedSize {
		if len(s.resolved) == maxResolved {
			clear(s.resolved)
		}
		s.resolved[raw] = r
	}
	return r
}

func (c *Config) resolve(raw string) *resolved {
	name, bounded := cutBound(raw)
	name = cmp.Or(name, Unnamed)
	if c.Include != nil && !c.Include.MatchString(name) || c.Exclude != nil && c.Exclude.MatchString(name) {
		return &resolved{}
	}
	for _, w := range c.Rewrites {
		if at := w.Pattern.FindStringSubmatchIndex(name); at != nil {
			raw = string(w.Pattern.ExpandString(nil, w.Replacement, name, at))
			name, bounded = cmp.Or(raw, Unnamed), false
		}
	}
	if bounded {
		return &resolved{wanted: true, label: name}
	}
	return &resolved{wanted: true, label: Label(raw)}
}

// Label returns where traces of a name are counted while there is a place, or
// whether they are not counted at all.
func (c *Config) Label(raw string) (label string, included bool) {
	return c.RowLabel(BoundName(raw))
}

// RowLabel does so for the name of a row, which BoundName has made.
func (c *Config) RowLabel(name string) (label string, included bool) {
	r := c.resolve(name)
	return r.label, r.wanted
}

// BoundName returns a name of bounded length for each of many traces: as it is
// up to maxName bytes, and else its label, marked as such. Two names never
// become one by it. Expressions then see the label.
func BoundName(raw string) string {
	if _, bounded := cutBound(raw); len(raw) <= maxName && !bounded {
		return raw
	}
	return Label(raw) + boundMark
}

// cutBound returns the label that BoundName has made of a name, or the name.
func cutBound(name string) (text string, bounded bool) {
	if label, ok := strings.CutSuffix(name, boundMark); ok && cutLabel.MatchString(label) {
		return label, true
	}
	return name, false
}

// BoundStatus returns a status of bounded length. A cut one ends in a hash, so
// that it does not become another one.
func BoundStatus(raw string) string {
	if len(raw) <= maxStatus {
		return raw
	}
	return cutText(raw, raw)
}

// Label returns the value of the label trace_name for a raw name, see LabelOr.
func Label(raw string) string { return LabelOr(raw, Unnamed) }

// LabelOr returns the value of a label for a raw name, and none for an empty one. Two
// raw names never share a label, hash collisions aside: what we make up can't be a
// real name, because a real name that looks like it is changed too.
func LabelOr(raw, none string) string {
	if raw == "" {
		return none
	}
	label := raw
	if raw == none || raw == Other || raw[0] == '\\' {
		label = `\` + raw
	}
	if len(label) <= maxLabel && utf8.ValidString(raw) && !cutLabel.MatchString(raw) {
		return label
	}
	return cutText(label, raw)
}

// cutText returns the start of a text, with the hash of what it is made of.
func cutText(text, raw string) string {
	sum := sha256.Sum256([]byte(raw))
	suffix := "~" + hex.EncodeToString(sum[:4])
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if cut := maxLabel - len(suffix); len(text) > cut {
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	return text + suffix
}
