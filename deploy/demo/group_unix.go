//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// separate puts a command into a process group of its own: a terminal sends
// Ctrl-C to a whole group, and the exporter takes a second signal for impatience.
func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
