// Package statecmd shows and changes the state of an exporter that is stopped. Each
// change is one transaction.
package statecmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
)

// Run runs one of the commands about the state.
func Run(_ context.Context, cfg *config.Validated, stdout io.Writer) error {
	message, err := run(cfg, stdout)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, message)
	return err
}

func run(cfg *config.Validated, stdout io.Writer) (message string, err error) {
	args := cfg.State
	directory := "--storage.path"
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", directory, err)
		}
	}()
	// Opened to write, a missing file would be created.
	s, err := store.OpenReadOnly(cfg.StoragePath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no state in %s", cfg.StoragePath)
	}
	if err != nil {
		return "", err
	}
	if cfg.Command == config.CommandStateShow {
		defer s.Close() //nolint:errcheck // it was only read
		return "", show(s, args.JSON, stdout)
	}
	if err := s.Close(); err != nil {
		return "", err
	}
	if s, err = store.Open(cfg.StoragePath); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	switch {
	case cfg.Command == config.CommandStateForget && args.TraceName == "":
		return fmt.Sprintf("forgot project %q\n", args.Project), s.Delete(args.Project)
	case cfg.Command == config.CommandStateForget:
		return fmt.Sprintf("forgot trace name %q of project %q\n", args.TraceName, args.Project), collector.ForgetName(s, args.Project, args.TraceName)
	case cfg.Command == config.CommandStateRename:
		return fmt.Sprintf("renamed project %q to %q\n", args.Project, args.NewProject), s.Rename(args.Project, args.NewProject)
	default:
		directory = "directory"
		return fmt.Sprintf("copied the state to %s, and verified it\n", args.Directory), s.CopyTo(args.Directory)
	}
}
