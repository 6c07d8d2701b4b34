package collector

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// boot identifies the time since the machine was started, and says how long that
// is, suspension included.
func boot() (id string, uptime time.Duration) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return "", 0
	}
	return strings.TrimSpace(string(content)), time.Duration(info.Uptime) * time.Second
}
