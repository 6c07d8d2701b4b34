// Package check tells what the exporter would find at Opper with its
// configuration, and what is wrong with that. It writes nothing.
package check

import (
	"context"
	"fmt"
	"io"

	"opper_exporter/collector/config"
	"opper_exporter/opper"
)

// Run prints the check of the project. Its error says that there is a problem.
func Run(ctx context.Context, cfg *config.Validated, stdout io.Writer) error {
	client, err := opper.New(cfg.Project.Opper)
	if err != nil {
		return err
	}
	if _, err := client.WithRetries(0).List(ctx, 0, 1); err != nil {
		return fmt.Errorf("%s: %w", client.URL(), err)
	}
	_, err = fmt.Fprintf(stdout, "%s: key of %s accepted\n", client.URL(), cfg.Project.KeyOrigin)
	return err
}
