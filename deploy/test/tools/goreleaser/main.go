// Command goreleaser reads the configuration of GoReleaser, in which every field
// must be known to it, and writes it as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: goreleaser FILE")
		os.Exit(2)
	}
	project, err := config.Load(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(project)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "goreleaser: error: %s\n", err)
		os.Exit(1)
	}
}
