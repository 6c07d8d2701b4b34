package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
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

// spellings returns the key of an identifier, and then those that a UUID has if it is
// written with or without dashes, or in another case.
func spellings(id string) []ID {
	keys := []ID{KeyOf(id)}
	if u, err := uuid.Parse(id); err == nil {
		bare := hex.EncodeToString(u[:])
		keys = append(keys, ID(u), KeyOf(bare), KeyOf(strings.ToUpper(bare)))
	}
	return keys
}

// KeyWithoutID returns a key for a row without an id, made from what does not
// change about it, so that the row is first seen once only.
func KeyWithoutID(name string, start time.Time) ID {
	sum := sha256.Sum256([]byte("row without an id\x00" + start.UTC().Format(time.RFC3339Nano) + "\x00" + name))
	return ID(sum[:16])
}

// String returns the key as a UUID in lower case.
func (id ID) String() string { return uuid.UUID(id).String() }

// Spells reports whether text is what String returns.
func (id ID) Spells(text string) bool {
	key, ok := parseUUID(text)
	return ok && key == id && strings.ToLower(text) == text
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

// parseUUID accepts only the canonical form: in the others that uuid.Parse
// accepts, with a prefix, in braces or without dashes, an id is another one.
func parseUUID(text string) (ID, bool) {
	if len(text) != len("3c90c3cc-0d44-4b50-8888-8dd25736052a") {
		return ID{}, false
	}
	id, err := uuid.Parse(text)
	return ID(id), err == nil
}
