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

// maxTypos is how many letters of a flag or a command may be wrong, missing or too
// many; half of them in a short one.
const maxTypos = 5

var (
	unknownFlag    = regexp.MustCompile(`^unknown long flag '--(no-)?(.*)'$`)
	unknownCommand = regexp.MustCompile(`^expected command but got "(.*)"$`)
)

// suggest adds the nearest name to an error about a flag or a command that does not exist.
func suggest(app *kingpin.Application, args []string, err error) error {
	model := app.Model()
	flags, commands := model.Flags, model.Commands
	if parsed, _ := app.ParseContext(args); parsed != nil && parsed.SelectedCommand != nil { // whose error is the same
		selected := parsed.SelectedCommand.Model()
		flags, commands = slices.Concat(flags, selected.Flags), selected.Commands
	}
	given, prefix := "", ""
	var names []string
	if match := unknownFlag.FindStringSubmatch(err.Error()); match != nil {
		given, prefix = match[2], "--"+match[1]
		for _, flag := range flags {
			if !flag.Hidden {
				names = append(names, flag.Name)
			}
		}
	} else if match := unknownCommand.FindStringSubmatch(err.Error()); match != nil {
		given = match[1]
		for _, command := range commands {
			names = append(names, command.Name)
		}
	}
	if nearest := nearest(strings.ToLower(given), names); nearest != "" {
		return fmt.Errorf("%w, did you mean '%s%s'?", err, prefix, nearest)
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
