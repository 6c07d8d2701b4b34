package sums

import (
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

const maxLabel = 128 // bytes

var cutLabel = regexp.MustCompile(`~[0-9a-f]{8}$`)

// Label returns the value of the label trace_name for a raw name. Two raw names
// never share a label, hash collisions aside: what we make up can't be a real
// name, because a real name that looks like it is changed too.
func Label(raw string) string {
	if raw == "" {
		return Unnamed
	}
	label := raw
	if raw == Unnamed || raw == Other || raw[0] == '\\' {
		label = `\` + raw
	}
	if len(label) <= maxLabel && utf8.ValidString(raw) && !cutLabel.MatchString(raw) {
		return label
	}
	sum := sha256.Sum256([]byte(raw))
	suffix := "~" + hex.EncodeToString(sum[:4])
	label = strings.ToValidUTF8(label, string(utf8.RuneError))
	if cut := maxLabel - len(suffix); len(label) > cut {
		for !utf8.RuneStart(label[cut]) {
			cut--
		}
		label = label[:cut]
	}
	return label + suffix
}
