// Command generate writes the tables of flags and metrics into the
// documentation, from what the program says about itself. Run it in the
// project's root directory:
//
//	go run ./deploy/docs/generate
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"opper_exporter/collector/config"
	"opper_exporter/deploy/test/exportertest"
)

// documents are the files that have generated blocks, below the directory of the
// documentation.
var documents = []string{"configuration.md", "metrics.md"}

func main() {
	if err := run(context.Background(), filepath.Join("deploy", "docs")); err != nil {
		fmt.Fprintf(os.Stderr, "generate: error: %s\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	generated, err := generate(ctx, dir)
	if err != nil {
		return err
	}
	for name, content := range generated {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil { //nolint:gosec // documentation is public
			return err
		}
	}
	return nil
}

// generate returns the documents in dir with their blocks as they must be.
func generate(ctx context.Context, dir string) (map[string][]byte, error) {
	blocks, err := tables(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, name := range documents {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if out[name], err = fill(content, blocks); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(blocks) > 0 {
		return nil, fmt.Errorf("no document has a place for %d blocks: %v", len(blocks), blocks)
	}
	return out, nil
}

// tables returns the generated blocks by name.
func tables(ctx context.Context) (map[string]string, error) {
	dir, err := os.MkdirTemp("", "opper_exporter-docs-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is for the system to clear
	binary, err := exportertest.Build(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	families, err := scrape(ctx, binary, dir)
	if err != nil {
		return nil, err
	}
	app, _ := config.NewApplication()
	blocks := metricTables(families)
	blocks["flags"], blocks["commands"], blocks["fields"] = flagTables(app.Model().Flags), commandTable(app.Model()), fieldTable()
	return blocks, nil
}

const (
	begin = "<!-- generated: "
	end   = "<!-- end of generated -->\n"
)

// fill replaces the blocks of a document, and removes them from blocks.
func fill(content []byte, blocks map[string]string) ([]byte, error) {
	var out bytes.Buffer
	rest := string(content)
	for {
		before, after, found := strings.Cut(rest, begin)
		out.WriteString(before)
		if !found {
			return out.Bytes(), nil
		}
		name, after, _ := strings.Cut(after, " -->\n")
		block, ok := blocks[name]
		if !ok {
			return nil, fmt.Errorf("there is no block %q", name)
		}
		delete(blocks, name)
		_, after, found = strings.Cut(after, end)
		if !found {
			return nil, fmt.Errorf("block %q has no end", name)
		}
		out.WriteString(begin + name + " -->\n" + block + end)
		rest = after
	}
}

var escaper = strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;")

// row returns a line of a table; cells are Markdown.
func row(cells ...string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

func head(titles ...string) string {
	return row(titles...) + strings.Repeat("|---", len(titles)) + "|\n"
}

func code(texts ...string) string {
	quoted := make([]string, 0, len(texts))
	for _, text := range texts {
		if text != "" {
			quoted = append(quoted, "`"+strings.ReplaceAll(text, "|", `\|`)+"`")
		}
	}
	return strings.Join(quoted, ", ")
}
