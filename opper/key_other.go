//go:build !unix

package opper

// nonblock is not needed: opening a file does not wait here.
const nonblock = 0
