package collector

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"opper_exporter/collector/ledger"
)

// Known is what the state of a project says of its list.
type Known struct {
	Listed   int       // rows believed to be listed
	LastSync time.Time // end of the last successful sync

	ledger *ledger.Ledger
}

// ReadKnown reads the state of a project; nil if there is none.
func ReadKnown(state Store, project string) (*Known, error) {
	k := &Known{ledger: ledger.New(ledger.Config{})}
	var stored []byte
	found, err := state.Load(project, func(key string, body []byte) error {
		if key == docIdentity {
			stored = bytes.Clone(body)
		}
		if key, ok := strings.CutPrefix(key, partLedger); ok {
			return k.ledger.Restore(key, body)
		}
		return nil
	})
	if err != nil || !found {
		return nil, err
	}
	var id identity
	if err := json.Unmarshal(stored, &id); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	k.LastSync = id.LastSuccess
	if err := k.ledger.EndRestore(id.Clock.Time); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	k.Listed = k.ledger.Listed()
	return k, nil
}

// Has reports whether a trace was seen before, by its id as Opper writes it.
func (k *Known) Has(id string) bool { return k.ledger.HasSeen(ledger.KeyOf(id)) }
