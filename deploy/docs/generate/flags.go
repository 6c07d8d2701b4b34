package main

import (
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"opper_exporter/collector/config"
)

// general is the section of flags whose names have one part.
const general = "General"

// flagTables returns a table for each first part of the names.
func flagTables(flags []*kingpin.FlagModel) string {
	var sections []string
	tables := map[string]string{}
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		section := general
		if prefix, _, ok := strings.Cut(f.Name, "."); ok {
			section = code("--" + prefix + ".*")
		}
		if !slices.Contains(sections, section) {
			sections = append(sections, section)
			tables[section] = head("flag", "default", "meaning")
		}
		name, value, help := "--"+f.Name, code(f.Default...), f.Help
		switch {
		case f.IsBoolFlag() && slices.Equal(f.Default, []string{"true"}):
			name, value = "--[no-]"+f.Name, "on"
		case f.IsBoolFlag():
			name, value = "--[no-]"+f.Name, "off"
		case len(f.Default) == 0 && f.PlaceHolder != strings.ToUpper(f.PlaceHolder): // capitals stand for any value
			value = code(f.PlaceHolder)
		}
		if f.Envar != "" {
			help += " ($" + f.Envar + ")"
		}
		tables[section] += row(code(name), value, escaper.Replace(help))
	}
	if i := slices.Index(sections, general); i >= 0 {
		sections = append(slices.Delete(sections, i, i+1), general)
	}
	var out strings.Builder
	for _, section := range sections {
		out.WriteString("\n### " + section + "\n\n" + tables[section])
	}
	out.WriteString("\n")
	return out.String()
}

// commandTable returns a row for each command, and one for each of its flags.
func commandTable(app *kingpin.ApplicationModel) string {
	rows := []string{head("command", "meaning")}
	for _, c := range app.FlattenedCommands() {
		if c.Hidden || c.Name == "help" {
			continue
		}
		name := []string{code(c.FullCommand)}
		for _, arg := range c.Args {
			name = append(name, code("<"+arg.Name+">"))
		}
		rows = append(rows, row(strings.Join(name, " "), escaper.Replace(c.Help)))
		for _, f := range c.Flags {
			rows = append(rows, row(code(c.FullCommand)+" "+code("--"+f.Name), escaper.Replace(f.Help)))
		}
	}
	return strings.Join(rows, "")
}

// fieldTable returns a row for each field of a project that replaces a flag.
func fieldTable() string {
	rows := []string{head("field", "in place of the flag")}
	for _, f := range config.Fields {
		if f.Flag != f.Name {
			rows = append(rows, row(code(f.Name), code("--"+f.Flag)))
		}
	}
	return strings.Join(rows, "")
}
