package config

import (
	"fmt"
	"regexp"

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
	nearest, distance := "", min(maxTypos, len(match[2])/2)+1
	for _, flag := range app.Model().Flags {
		if d := levenshtein.ComputeDistance(match[2], flag.Name); !flag.Hidden && d < distance {
			nearest, distance = flag.Name, d
		}
	}
	if nearest == "" {
		return err
	}
	return fmt.Errorf("%w, did you mean '--%s%s'?", err, match[1], nearest)
}
