package config

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// The commands of the program. Flags may stand before or after them.
const (
	CommandRun   = "run"
	CommandCheck = "check"

	CommandState       = "state" // with one of the following subcommands
	CommandStateShow   = "state show"
	CommandStateForget = "state forget"
	CommandStateRename = "state rename"
	CommandStateCopy   = "state copy"
)

// State holds the arguments of the commands about the state.
type State struct {
	JSON                bool
	Project, NewProject string
	TraceName           string // empty is all of the project
	Directory           string
}

func addCommands(app *kingpin.Application, v *Validated) {
	app.Command(CommandRun, "Run the exporter. The default without a command.")

	check := app.Command(CommandCheck, "Check the key, the list of traces and the settings with a few requests to Opper, and print what is wrong and what to do. Writes nothing. Exit status 1 if it finds a problem, 2 if a flag or the key cannot be used.")
	check.Flag("json", "Print the result as JSON.").NoEnvar().BoolVar(&v.CheckJSON)

	state := app.Command(CommandState, "Show or change the state in --storage.path while the exporter is stopped. Needs no API key.")
	show := state.Command("show", "Print the projects, their trace names and sizes. Writes nothing.")
	show.Flag("json", "Print the result as JSON.").NoEnvar().BoolVar(&v.State.JSON)
	forget := state.Command("forget", "Forget a trace name of a project: its series end. Without a name, forget the project with all that is known of it.")
	label(forget, "project", "Value of the label project.", &v.State.Project).Required()
	// An empty one, such as of a variable that is not set, must not mean the whole project.
	label(forget, "trace-name", "Value of the label trace_name.", &v.State.TraceName)
	rename := state.Command("rename", "Give the state of a project, with its counts, to another name.")
	label(rename, "project", "Value of the label project.", &v.State.Project).Required()
	label(rename, "new-project", "Its new value.", &v.State.NewProject).Required()
	copyTo := state.Command("copy", "Copy the state into another directory, and verify the copy.")
	copyTo.Arg("directory", "Another --storage.path, without a state.").Required().StringVar(&v.State.Directory)
}

// writeRefused prints an error of the configuration where CommandCheck would print what
// it has found.
func writeRefused(w io.Writer, refused error) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(struct {
		Healthy  bool       `json:"healthy"`
		Error    string     `json:"error"`
		Projects []struct{} `json:"projects"`
	}{false, strings.Join(strings.Fields(refused.Error()), " "), []struct{}{}})
}

// label adds an argument that is the value of a label.
func label(command *kingpin.CmdClause, name, help string, to *string) *kingpin.ArgClause {
	arg := command.Arg(name, help)
	arg.SetValue(labelValue{name, to})
	return arg
}

type labelValue struct {
	name string
	to   *string
}

// Set implements kingpin.Value.
func (v labelValue) Set(text string) (err error) {
	if *v.to, err = parseLabel(text); err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	return nil
}

// String implements kingpin.Value.
func (labelValue) String() string { return "" }

// withCommand adds the default command to arguments without one. With a default of
// kingpin's own, a flag before it that lacks its value would be ignored.
func withCommand(app *kingpin.Application, args []string) []string {
	context, err := app.ParseContext(args)
	if err != nil || context.SelectedCommand != nil || app.GetCommand(CommandRun) == nil {
		return args
	}
	if slices.ContainsFunc(context.Elements, func(e *kingpin.ParseElement) bool { return e.Clause == app.HelpFlag }) {
		return args // the help of a command would list no others
	}
	return append(slices.Clip(args), CommandRun)
}
