package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"time"
)

// ID is the key under which the ledger knows a trace: the 16 bytes of a UUID,
// or the first 16 bytes of the SHA-256 of any other identifier.
type ID [16]byte

// KeyOf returns the key of the identifier that Opper gave to a trace.
func KeyOf(id string) ID {
	if u, ok := parseUUID(id); ok {
		return u
	}
	sum := sha256.Sum256([]byte(id))
	return ID(sum[:16])
}

// KeyOfNameless returns a key for a row that has no identifier, made from what
// does not change about it, so that the same row is not met anew in each sync.
func KeyOfNameless(name string, start time.Time) ID {
	sum := sha256.Sum256([]byte("row without an id\x00" + start.UTC().Format(time.RFC3339Nano) + "\x00" + name))
	return ID(sum[:16])
}

// String returns the key as a UUID in lower case.
func (id ID) String() string {
	b := id.text()
	return string(b[:])
}

// Spells reports whether text is what String returns.
func (id ID) Spells(text string) bool {
	b := id.text()
	return string(b[:]) == text
}

func (id ID) text() (b [36]byte) {
	hex.Encode(b[:8], id[:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:], id[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return b
}

// MarshalText returns the key as a UUID.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) error {
	got, ok := parseUUID(string(text))
	if !ok {
		return errors.New("not the key of a trace")
	}
	*id = got
	return nil
}

func parseUUID(s string) (ID, bool) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, false
	}
	for i, at := range [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		high, low := digits[s[at]], digits[s[at+1]]
		if high|low > 0xf {
			return ID{}, false
		}
		id[i] = high<<4 | low
	}
	return id, true
}

// digits are the values of hexadecimal digits; others have a larger one.
var digits = func() (values [256]byte) {
	for c := range values {
		values[c] = 0xff
		if v, err := strconv.ParseUint(string([]byte{byte(c)}), 16, 8); err == nil {
			values[c] = byte(v)
		}
	}
	return values
}()
