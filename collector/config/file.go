package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"go.yaml.in/yaml/v3"
)

const (
	maxProjects = 10_000
	// maxValues bounds the list of one field, which aliases can repeat.
	maxValues = 1000
)

// loader makes projects of the file of --config.file.
type loader struct {
	parsed   *Parsed // for each project base, then changed by its fields
	base     Parsed
	getenv   func(string) string
	projects []Project
	keyFiles map[string]keyFile // of the directories, by the name of the project
	names    map[string]string  // where the project of a name is
	listings map[listing]string // where the project of a list is
}

// keyFile makes a project, or gives its key to the entry of that name.
type keyFile struct {
	path, where string
	directory   *yaml.Node
}

// listing is what two projects would both count.
type listing struct {
	key  [32]byte
	list string
}

// load returns the projects of --config.file. An error says where in it.
func (p *Parsed) load(getenv func(string) string) ([]Project, error) {
	content, err := readConfigFile(p.configFile)
	if err != nil {
		return nil, fmt.Errorf("--config.file: %s: %w", p.configFile, err)
	}
	return p.parseProjects(content, getenv)
}

// parseProjects makes one line of each error. Errors quote no values, as one of them may
// be a key in the wrong place.
func (p *Parsed) parseProjects(content []byte, getenv func(string) string) ([]Project, error) {
	l := &loader{parsed: p, base: *p, getenv: getenv, keyFiles: map[string]keyFile{}, names: map[string]string{}, listings: map[listing]string{}}
	l.base.keyVariables = nil
	root, err := parseYAML(content)
	if err == nil {
		err = l.load(root)
	}
	if key := apiKey.FindIndex(content); err == nil && key != nil {
		err = fmt.Errorf("line %d: API key in the file: expected it in a file that api_key_file names, or in a variable that api_key_env names", 1+bytes.Count(content[:key[0]], []byte("\n")))
	}
	if err != nil {
		text := p.configFile + ": " + withoutKeys(err).Error()
		return nil, errors.New(strings.Join(strings.Fields(text), " "))
	}
	return l.projects, nil
}

// keyLike may be a key, and is not shown. apiKey surely is one.
var (
	keyLike = regexp.MustCompile(`\bop-(mak-\w[^\s"]*|[A-Za-z0-9]{16,})`)
	apiKey  = regexp.MustCompile(`\bop-(mak-\w|[A-Z0-9]{16,}\b)`)
)

// withoutKeys returns an error that shows no key where one was given in the wrong place.
func withoutKeys(err error) error {
	if err == nil || !keyLike.MatchString(err.Error()) {
		return err
	}
	return errors.New(keyLike.ReplaceAllString(err.Error(), "op-…"))
}

func (l *loader) load(root *yaml.Node) error {
	sections, err := mapping(root, "", []string{"projects", "project_key_directories"})
	if err != nil {
		return err
	}
	if len(sections) == 0 {
		return at(root, "", errors.New("expected projects, project_key_directories, or both"))
	}
	items := map[string][]*yaml.Node{}
	for _, section := range sections {
		if section.value.Kind != yaml.SequenceNode {
			return at(section.key, section.name, errors.New("expected a list"))
		}
		items[section.name] = section.value.Content
	}
	// First, as a project can take its key from one.
	for i, item := range items["project_key_directories"] {
		if err := l.readDirectory(fmt.Sprintf("project_key_directories[%d]", i), resolve(item)); err != nil {
			return err
		}
	}
	for i, item := range items["projects"] {
		if err := l.addProject(fmt.Sprintf("projects[%d]", i), resolve(item)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.keyFiles)) {
		if _, ok := l.names[name]; !ok {
			if err := l.addKeyFile(name, l.keyFiles[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) addProject(where string, node *yaml.Node) error {
	names := make([]string, len(Fields))
	for i, f := range Fields {
		names[i] = f.Name
	}
	// First, so that errors can name the project.
	if i := slices.IndexFunc(node.Content, func(n *yaml.Node) bool { return n.Value == "name" }); i >= 0 && i%2 == 0 && node.Kind == yaml.MappingNode {
		if name, err := text(resolve(node.Content[i+1])); err == nil {
			where = fmt.Sprintf("%s %.100q", where, name)
		}
	}
	pairs, err := mapping(node, where, names)
	if err != nil {
		return err
	}
	*l.parsed = l.base
	set := map[string]pair{} // by flag
	for _, p := range pairs {
		field := Fields[slices.Index(names, p.name)]
		if err := l.set(field, p.value); err != nil {
			return at(p.key, where+": "+p.name, err)
		}
		set[field.Flag] = p
	}
	if _, ok := set[nameFlag]; !ok {
		return at(node, where, errors.New("expected a name"))
	}
	if l.parsed.keyFile != "" && l.parsed.keyVariables != nil {
		return at(node, where, errors.New("expected either api_key_file or api_key_env"))
	}
	if l.parsed.keyFile == "" && l.parsed.keyVariables == nil {
		file, ok := l.keyFiles[l.parsed.project.Name]
		if !ok {
			return at(node, where, errors.New("expected api_key_file, api_key_env, or a file of that name in project_key_directories"))
		}
		l.parsed.keyFile = file.path
	}
	project, err := l.parsed.validateProject(l.getenv)
	if failed, ok := errors.AsType[*flagError](err); ok {
		if p, ok := set[failed.flag]; ok {
			err = failed.err
			if failed.flag == keyFileFlag {
				err = errors.Unwrap(err) // the path may be the key itself
			}
			return at(p.key, where+": "+p.name, err)
		}
	}
	if err != nil {
		return at(node, where, ofKeyFile(err))
	}
	return l.add(project, where, node)
}

// set sets a field by its flag.
func (l *loader) set(field Field, node *yaml.Node) error {
	if field.Flag == httpClientFlag && node.Kind == yaml.MappingNode {
		var value any // the node alone would lack the anchors of its aliases
		if err := node.Decode(&value); err != nil {
			return err
		}
		inline, err := yaml.Marshal(value)
		l.parsed.inlineHTTPClient = string(inline)
		return err
	}
	value := l.parsed.settings[field.Flag]
	var values []string
	if repeatable, ok := value.(interface{ IsCumulative() bool }); ok && repeatable.IsCumulative() {
		*value.(kingpin.Getter).Get().(*[]string) = nil
		var err error
		if values, err = texts(node, field.Flag == headerFlag); err != nil {
			return err
		}
	} else {
		value, err := text(node)
		if err != nil {
			return err
		}
		if field.isPath() && value != "" {
			value = l.path(value)
		}
		values = []string{value}
	}
	for _, text := range values {
		if err := value.Set(text); err != nil {
			return errors.Unwrap(err) // without the flag
		}
	}
	return nil
}

// path returns a path that is relative to the file.
func (l *loader) path(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(l.base.configFile), path)
}

// readDirectory finds the key files of a directory. What begins with a dot is
// hidden, or how Kubernetes mounts a Secret.
func (l *loader) readDirectory(where string, node *yaml.Node) error {
	dir, err := text(node)
	if err == nil && dir == "" {
		err = errors.New("expected a directory")
	}
	if err != nil {
		return at(node, where, err)
	}
	dir = l.path(dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return at(node, where, fmt.Errorf("%s: %w", dir, unnamed(err)))
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if info, err := os.Stat(path); strings.HasPrefix(entry.Name(), ".") || err == nil && info.IsDir() {
			continue
		}
		file := keyFile{path, where + ": " + path, node}
		if other, ok := l.keyFiles[entry.Name()]; ok {
			return at(node, file.where, nameTaken(other.where))
		}
		l.keyFiles[entry.Name()] = file
	}
	return nil
}

// addKeyFile makes a project of a key file.
func (l *loader) addKeyFile(name string, file keyFile) error {
	directory, _, _ := strings.Cut(file.where, ": ")
	*l.parsed = l.base
	l.parsed.keyFile = file.path
	if err := l.parsed.settings[nameFlag].Set(name); err != nil {
		return at(file.directory, directory, fmt.Errorf("%q as the name of a project: %w", file.path, errors.Unwrap(err)))
	}
	project, err := l.parsed.validateProject(l.getenv)
	if err != nil {
		return at(file.directory, directory, ofKeyFile(err))
	}
	return l.add(project, file.where, file.directory)
}

// ofKeyFile leaves out the flag of a key file that is not set by a field.
func ofKeyFile(err error) error {
	if failed, ok := errors.AsType[*flagError](err); ok && failed.flag == keyFileFlag {
		return failed.err
	}
	return err
}

func nameTaken(by string) error { return fmt.Errorf("the name is also that of %s", by) }

// add refuses projects that would be mixed up, or counted twice.
func (l *loader) add(project Project, where string, node *yaml.Node) error {
	if other, ok := l.names[project.Name]; ok {
		return at(node, where, nameTaken(other))
	}
	traces := listing{project.Opper.Key.Sum(), project.List()}
	if other, ok := l.listings[traces]; ok {
		return at(node, where, fmt.Errorf("the key is also that of %s, with the same URL, headers and name filter: their traces would be counted twice", other))
	}
	if len(l.projects) == maxProjects {
		return at(node, where, fmt.Errorf("expected at most %d projects", maxProjects))
	}
	l.names[project.Name], l.listings[traces] = where, where
	l.projects = append(l.projects, project)
	return nil
}
