package ledger

import (
	"crypto/sha256"
	"strings"
	"testing"
)

// Only a UUID is its own key, and only in lower case what the key spells.
func TestKeys(t *testing.T) {
	const uuid = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
	key := KeyOf(uuid)
	if key.String() != uuid || !key.Spells(uuid) {
		t.Errorf("%s becomes %s", uuid, key)
	}
	upper := strings.ToUpper(uuid)
	if KeyOf(upper) != key || key.Spells(upper) {
		t.Errorf("%s becomes %s", upper, KeyOf(upper))
	}
	for i := range len(uuid) {
		for _, c := range []string{"g", "/", ":", "`", "\xff", "", "00"} {
			other := uuid[:i] + c + uuid[i+1:]
			sum := sha256.Sum256([]byte(other))
			if got := KeyOf(other); got != ID(sum[:16]) || got.Spells(other) {
				t.Errorf("%q becomes %s", other, got)
			}
		}
	}
	for _, other := range []string{
		"urn:uuid:" + uuid, "{" + uuid + "}", strings.ReplaceAll(uuid, "-", ""), " " + uuid, uuid + "\n", uuid[:35], "{" + uuid[:34] + "}",
		"urn:uuid:" + uuid[:27], "3c90c3cc0d444b5088888dd25736052a----",
	} {
		sum := sha256.Sum256([]byte(other))
		if got := KeyOf(other); got != ID(sum[:16]) || got.Spells(other) {
			t.Errorf("%q becomes %s", other, got)
		}
		var id ID
		if err := id.UnmarshalText([]byte(other)); err == nil {
			t.Errorf("%q is read as %s", other, id)
		}
	}
}
