package config

import (
	"slices"

	"github.com/alecthomas/kingpin/v2"
)

// The commands of the program. Flags may stand before or after them.
const (
	CommandRun   = "run"
	CommandCheck = "check"
)

func addCommands(app *kingpin.Application, v *Validated) {
	app.Command(CommandRun, "Run the exporter. The default without a command.")

	check := app.Command(CommandCheck, "Check the key, the list of traces and the settings with a few requests to Opper, and print what is wrong and what to do. Writes nothing. Exit status 1 if it finds a problem, 2 if a flag or the key cannot be used.")
	check.Flag("json", "Print the result as JSON.").NoEnvar().BoolVar(&v.CheckJSON)
}

// withCommand adds the default command to arguments without one. With a default of
// kingpin's own, a flag before it that lacks its value would be ignored.
func withCommand(app *kingpin.Application, args []string) []string {
	context, err := app.ParseContext(args)
	if err != nil || context.SelectedCommand != nil {
		return args
	}
	if slices.ContainsFunc(context.Elements, func(e *kingpin.ParseElement) bool { return e.Clause == app.HelpFlag }) {
		return args // the help of a command would list no others
	}
	return append(slices.Clip(args), CommandRun)
}
