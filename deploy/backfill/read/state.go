package read

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"opper_exporter/collector"
	"opper_exporter/collector/config"
	"opper_exporter/collector/store"
)

// copyState copies a state, or a file that is one, into a directory.
func copyState(path, dir string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	open := store.OpenFileReadOnly
	if info.IsDir() {
		open = store.OpenReadOnly
	}
	state, err := open(path)
	switch {
	case errors.Is(err, store.ErrInUse):
		return fmt.Errorf("%s %w: stop the exporter, or use a copy, as POST /-/snapshot makes", path, store.ErrInUse)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no state in %s", path)
	case err != nil:
		return err
	}
	return cmp.Or(state.CopyTo(dir), state.Close())
}

// known reads the state of a project, and checks that it counts what is configured.
func known(state *store.Store, cfg *config.Project) (*collector.Known, error) {
	k, err := collector.ReadKnown(state, cfg.Name)
	switch {
	case err != nil:
		return nil, err
	case k == nil:
		names, err := state.Projects()
		return nil, cmp.Or(err, fmt.Errorf("there is no state of it, only of %q", strings.Join(names, ", ")))
	case k.IsInitialSync:
		return nil, errors.New("its initial sync is not complete: run the exporter until it is")
	case k.URL != cfg.UpstreamURL || k.NameFilter != cfg.Opper.Name:
		return nil, fmt.Errorf("it counts the list of %s with the name filter %q, not that of --opper.url and --opper.name-filter, %s with %q", k.URL, k.NameFilter, cfg.UpstreamURL, cfg.Opper.Name)
	case !slices.Equal(k.DurationBuckets, cfg.Aggregate.DurationBuckets):
		return nil, fmt.Errorf("it has the buckets %v, not those of --collector.duration-buckets", k.DurationBuckets)
	case !slices.Equal(k.TokenBuckets, cfg.Aggregate.TokenBuckets):
		return nil, fmt.Errorf("it has the buckets %v, not those of --collector.token-buckets", k.TokenBuckets)
	}
	return k, nil
}
