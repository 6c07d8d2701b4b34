// Command healthcheck asks the exporter whether it is healthy, in an image that
// has neither a shell nor curl. It takes the URL to ask as its only argument.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	defaultURL = "http://127.0.0.1:16773/-/healthy"
	// timeout is below that of the HEALTHCHECK, so that the reason is printed.
	timeout = 5 * time.Second
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	url := defaultURL
	switch len(args) {
	case 0:
	case 1:
		url = args[0]
	default:
		_, _ = fmt.Fprintln(stderr, "healthcheck: error: expected one URL")
		return 2
	}
	if err := check(url); err != nil {
		_, _ = fmt.Fprintf(stderr, "healthcheck: error: %s\n", err)
		return 1
	}
	return 0
}

func check(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody) //nolint:gosec // the URL is the operator's own
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		// What is asked is the own container, whose certificate has another name.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // nothing is sent, and nothing is believed but the status
	}}
	resp, err := client.Do(req) //nolint:gosec // the URL is the operator's own
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Who asks for a password is alive.
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}
