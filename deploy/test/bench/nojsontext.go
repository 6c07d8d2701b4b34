//go:build !goexperiment.jsonv2

package main

import "context"

// tokens is measured where there is such a reader: with GOEXPERIMENT=jsonv2.
func tokens(int, []byte) func(context.Context) error { return nil }
