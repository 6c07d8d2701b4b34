package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfigFile bounds the size of the configuration file, in case it is
// something else.
const maxConfigFile = 8 << 20

func readConfigFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unnamed(err)
	}
	// A pipe can't be read again.
	if !info.Mode().IsRegular() || info.Size() > maxConfigFile {
		return nil, fmt.Errorf("expected a regular file of at most %d MiB", maxConfigFile>>20)
	}
	content, err := os.ReadFile(path)
	return content, unnamed(err)
}

// anchor is what the parser repeats of the file in its errors.
var anchor = regexp.MustCompile(`'.*'`)

// parseYAML returns the one document of a file.
func parseYAML(content []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, more yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1}, nil
	}
	if err == nil {
		if err = decoder.Decode(&more); errors.Is(err, io.EOF) {
			return resolve(document.Content[0]), nil
		}
		if err == nil {
			err = fmt.Errorf("line %d: expected one document", more.Line)
		}
	}
	return nil, errors.New(strings.TrimPrefix(anchor.ReplaceAllString(err.Error(), "…"), "yaml: "))
}

// at says where in the file an error is.
func at(node *yaml.Node, where string, err error) error {
	if where != "" {
		err = fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("line %d: %w", node.Line, err)
}

// resolve returns what an alias stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// pair is a field of a mapping.
type pair struct {
	name       string
	key, value *yaml.Node
}

// mapping returns the fields of a mapping, each of which is known and there once.
func mapping(node *yaml.Node, where string, known []string) ([]pair, error) {
	if node.Kind != yaml.MappingNode {
		return nil, at(node, where, fmt.Errorf("expected fields such as %s", known[0]))
	}
	var pairs []pair
	for content := range slices.Chunk(node.Content, 2) {
		key := content[0]
		if !slices.Contains(known, key.Value) {
			err := fmt.Errorf("unknown field %q", key.Value)
			if name := nearest(key.Value, known); name != "" {
				err = fmt.Errorf("%w, did you mean %q?", err, name)
			}
			return nil, at(key, where, err)
		}
		if i := slices.IndexFunc(pairs, func(p pair) bool { return p.name == key.Value }); i >= 0 {
			return nil, at(key, where, fmt.Errorf("%s is already set in line %d", key.Value, pairs[i].key.Line))
		}
		pairs = append(pairs, pair{key.Value, key, resolve(content[1])})
	}
	return pairs, nil
}

// text returns a value as it is written in the file, whatever its YAML type.
func text(node *yaml.Node) (string, error) {
	switch node.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return node.Value, nil
	case "!!null":
		return "", errors.New("expected a value")
	}
	return "", errors.New("expected a single value")
}

// texts returns a value, or the values of a list; with isHeader, also of a
// mapping of names to values.
func texts(node *yaml.Node, isHeader bool) ([]string, error) {
	if node.Kind == yaml.ScalarNode {
		value, err := text(node)
		return []string{value}, err
	}
	if len(node.Content) > maxValues {
		return nil, fmt.Errorf("expected at most %d values", maxValues)
	}
	var values []string
	for _, item := range node.Content {
		value, err := text(resolve(item))
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	if node.Kind == yaml.SequenceNode {
		return values, nil
	}
	if !isHeader {
		return nil, errors.New("expected a list")
	}
	var headers []string
	for pair := range slices.Chunk(values, 2) {
		headers = append(headers, pair[0]+": "+pair[1])
	}
	return headers, nil
}
