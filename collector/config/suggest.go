package config

import (
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
func suggest(app *kingpin.Application, err error) error {
	match := unknownFlag.FindStringSubmatch(err.Error())
	if match == nil {
		return err
	}
	var names []string
	for _, flag := range app.Model().Flags {
		if !flag.Hidden {
			names = append(names, flag.Name)
		}
	}
	if nearest := nearest(match[2], names); nearest != "" {
		return fmt.Errorf("%w, did you mean '--%s%s'?", err, match[1], nearest)
	}
	return err
}

// nearest returns the name that was probably meant, or none.
func nearest(word string, names []string) string {
	found, distance := "", min(maxTypos, len(word)/2)+1
	for _, name := range names {
		if d := levenshtein.ComputeDistance(word, name); d < distance {
			found, distance = name, d
		}
	}
	if found == "" && word != "" {
		if i := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, word+"_") || strings.HasPrefix(name, word+"-") }); i >= 0 {
			return names[i]
		}
	}
	return found
}
