package config

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// digest returns a hash of all that a project is configured by, except its key, which
// is a placeholder in JSON. Tags leave out what exists only while a project runs, and
// functions, which opper.Transport.ID stands for.
func digest(p Project) string {
	p.Digest = ""
	content, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("no digest of a project: %s", err)) // a field without its tag
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}
