//go:build !linux

package collector

import "time"

// boot knows nothing here.
func boot() (id string, uptime time.Duration) { return "", 0 }
