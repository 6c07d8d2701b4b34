// Command dockerfile reads a Dockerfile with the parser of BuildKit, and writes
// as JSON its stages and the files of the context that .dockerignore leaves in.
// It ends with an error for a Dockerfile that cannot be read, and for whatever
// the linter of BuildKit has to say.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// result is what the command writes.
type result struct {
	Args    map[string]string
	Stages  []stage
	Context []string
}

type stage struct {
	Name, From string
	Steps      []step
}

// step is one instruction. Args are its words, Values its names and values.
type step struct {
	Op     string
	Args   []string          `json:",omitempty"`
	Dest   string            `json:",omitempty"`
	From   string            `json:",omitempty"`
	Chown  string            `json:",omitempty"`
	Values map[string]string `json:",omitempty"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: dockerfile FILE CONTEXT")
		os.Exit(2)
	}
	r, err := read(os.Args[1], os.Args[2])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "dockerfile: error: %s\n", err)
		os.Exit(1)
	}
}

func read(file, dir string) (*result, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	parsed, err := parser.Parse(f)
	if err != nil {
		return nil, err
	}
	var found []error
	for _, w := range parsed.Warnings {
		found = append(found, errors.New(w.Short))
	}
	rules := linter.New(&linter.Config{Warn: func(rule, _, _, message string, at []parser.Range) {
		found = append(found, fmt.Errorf("%s:%d: %s: %s", file, at[0].Start.Line, rule, message))
	}})
	stages, args, err := instructions.Parse(parsed.AST, rules)
	if err = errors.Join(append(found, err)...); err != nil {
		return nil, err
	}
	r := &result{Args: map[string]string{}}
	for _, command := range args {
		values(r.Args, command.Args)
	}
	for _, s := range stages {
		out := stage{Name: s.Name, From: s.BaseName}
		for _, command := range s.Commands {
			next, err := convert(command)
			if err != nil {
				return nil, err
			}
			out.Steps = append(out.Steps, next)
		}
		r.Stages = append(r.Stages, out)
	}
	r.Context, err = context(dir)
	return r, err
}

func convert(command instructions.Command) (step, error) {
	s := step{Op: command.Name(), Values: map[string]string{}}
	switch c := command.(type) {
	case *instructions.ArgCommand:
		values(s.Values, c.Args)
	case *instructions.EnvCommand:
		for _, pair := range c.Env {
			s.Values[pair.Key] = pair.Value
		}
	case *instructions.LabelCommand:
		for _, pair := range c.Labels {
			s.Values[pair.Key] = pair.Value
		}
	case *instructions.WorkdirCommand:
		s.Args = []string{c.Path}
	case *instructions.UserCommand:
		s.Args = []string{c.User}
	case *instructions.ExposeCommand:
		s.Args = c.Ports
	case *instructions.CopyCommand:
		s.Args, s.Dest, s.From, s.Chown = c.SourcePaths, c.DestPath, c.From, c.Chown
	case *instructions.RunCommand:
		s.Args = c.CmdLine
	case *instructions.CmdCommand:
		s.Args = c.CmdLine
		if c.PrependShell {
			return s, errors.New("CMD needs a shell")
		}
	case *instructions.EntrypointCommand:
		s.Args = c.CmdLine
		if c.PrependShell {
			return s, errors.New("ENTRYPOINT needs a shell")
		}
	case *instructions.HealthCheckCommand:
		s.Args = c.Health.Test
	default:
		return s, fmt.Errorf("%s is not known here", command.Name())
	}
	return s, nil
}

// values takes in arguments. One without a value takes that of the outer scope.
func values(into map[string]string, args []instructions.KeyValuePairOptional) {
	for _, a := range args {
		into[a.Key] = a.ValueString()
	}
}

func context(dir string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	var files []string
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err == nil && !ignored {
			files = append(files, name)
		}
		return err
	})
	return files, err
}
