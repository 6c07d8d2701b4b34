//go:build unix

package opper

import "syscall"

// nonblock opens a pipe without waiting for a writer.
const nonblock = syscall.O_NONBLOCK | syscall.O_NOCTTY
