//go:build !unix

package main

import "os/exec"

// separate does nothing where there are no process groups.
func separate(*exec.Cmd) {}
