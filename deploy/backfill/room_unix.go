//go:build linux || darwin || freebsd

package main

import "golang.org/x/sys/unix"

// room returns how many bytes can be written into a directory.
func room(dir string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	//nolint:unconvert // the types differ between systems
	return uint64(fs.Bavail) * uint64(fs.Bsize), nil
}
