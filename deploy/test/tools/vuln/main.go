// Command vuln runs govulncheck over the packages that it is given. Where the
// vulnerability database can't be reached, it says so and succeeds.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/vuln/scan"
)

// reachable is how long the database may take to answer.
const reachable = 10 * time.Second

func main() {
	ctx := context.Background()
	db := cmp.Or(os.Getenv("GOVULNDB"), "https://vuln.go.dev")
	if err := reach(ctx, db); err != nil {
		fmt.Printf("skipped: the vulnerability database cannot be reached: %s\n", err)
		return
	}
	cmd := scan.Command(ctx, append([]string{"-db", db}, os.Args[1:]...)...)
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// reach asks a database for its index, as every scan does first. One in files is
// left to the scan.
func reach(ctx context.Context, db string) error {
	if !strings.HasPrefix(db, "http") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachable)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(db, "/")+"/index/db.json", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
