package deploy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
)

// The tables have every module that is required, each with a reason, and no
// other.
func TestEveryDependencyHasItsReason(t *testing.T) {
	content, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	// Opening it also keeps go test from taking a cached result when it has
	// changed.
	if _, err = os.ReadFile("../go.mod"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", "../go.mod").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Require) == 0 {
		t.Fatal("go.mod requires nothing")
	}
	for _, section := range []struct {
		name     string
		indirect bool
	}{{"Direct", false}, {"Indirect", true}} {
		documented := map[string]bool{}
		for _, row := range document(content).table(t, section.name) {
			if len(row) != 2 || row[1] == "" {
				t.Errorf("%s: %q has no reason", section.name, row[0])
			}
			if documented[row[0]] {
				t.Errorf("%s: %s is there twice", section.name, row[0])
			}
			documented[row[0]] = true
		}
		for _, module := range mod.Require {
			if module.Indirect != section.indirect {
				continue
			}
			if !documented[module.Path] {
				t.Errorf("%s: go.mod requires %s, the table has not", section.name, module.Path)
			}
			delete(documented, module.Path)
		}
		for path := range documented {
			t.Errorf("%s: the table has %s, which go.mod does not require like that", section.name, path)
		}
	}
}
