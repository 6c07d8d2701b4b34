//go:build goexperiment.jsonv2

package main

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"errors"
	"io"
)

// tokens goes past all values of a page with the token reader of the second
// version of encoding/json, which is there with GOEXPERIMENT=jsonv2: the least
// that a decoder made of it would cost.
func tokens(n int, body []byte) func(context.Context) error {
	return repeated(n, func() error {
		d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))
		for {
			if _, err := d.ReadToken(); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}
