package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/alecthomas/kingpin/v2"
)

// maxTypos is how many letters of a flag may be wrong, missing or too many; half
// of them in a short one.
const maxTypos = 5

var unknownFlag = regexp.MustCompile(`^unknown long flag '--(no-)?(.*)'$`)

// suggest adds the nearest flag to an error about a flag that does not exist.
func suggest(app *kingpin.Application, args []string, err error) error {
	match := unknownFlag.FindStringSubmatch(err.Error())
	if match == nil {
		return err
	}
	groups := []*kingpin.FlagGroupModel{app.Model().FlagGroupModel}
	if parsed, _ := app.ParseContext(args); parsed != nil && parsed.SelectedCommand != nil { // whose error is the same
		groups = append(groups, parsed.SelectedCommand.Model().FlagGroupModel)
	}
	var names []string
	for _, group := range groups {
		for _, flag := range group.Flags {
			if !flag.Hidden {
				names = append(names, flag.Name)
			}
		}
	}
	if nearest := nearest(strings.ToLower(match[2]), names); nearest != "" {
		return fmt.Errorf("%w, did you mean '--%s%s'?", err, match[1], nearest)
	}
	return err
}

// nearest returns the name that was probably meant, or none: one with a single typo, the
// only one that has all words of what was given, or one with few typos.
func nearest(given string, names []string) string {
	var withWords []string
	found, distance := "", min(maxTypos, len(given)/2)+1
	for _, name := range names {
		if d := levenshtein.ComputeDistance(given, name); d < distance {
			found, distance = name, d
		}
		if hasWords(name, words(given)) && !slices.Contains(withWords, name) {
			withWords = append(withWords, name)
		}
	}
	if distance > 1 && len(withWords) == 1 || found == "" && len(withWords) > 0 {
		if i := slices.IndexFunc(withWords, func(name string) bool { return strings.HasPrefix(name, given) }); i >= 0 {
			return withWords[i]
		}
		return slices.MinFunc(withWords, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	}
	return found
}

func words(flag string) []string {
	return strings.FieldsFunc(flag, func(r rune) bool { return strings.ContainsRune(".-_", r) })
}

func hasWords(flag string, given []string) bool {
	for _, word := range given {
		if !slices.Contains(words(flag), word) {
			return false
		}
	}
	return len(given) > 0
}
