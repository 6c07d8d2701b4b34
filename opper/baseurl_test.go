package opper

import "testing"

func TestBaseURLHasOneSpelling(t *testing.T) {
	for raw, want := range map[string]string{
		"https://API.opper.ai":      "https://api.opper.ai/v2",
		"https://api.opper.ai:443/": "https://api.opper.ai/v2",
		"https://api.opper.ai.":     "https://api.opper.ai/v2",
		"http://127.0.0.1:80/v3":    "http://127.0.0.1/v3",
		"http://127.0.0.1:443":      "http://127.0.0.1:443/v2",
		"https://[::1]:443/proxy":   "https://[::1]/proxy/v2",
		"https://[::1]:8443":        "https://[::1]:8443/v2",
	} {
		if u, err := baseURL(raw); err != nil || u.String() != want {
			t.Errorf("%s: %v, %v, want %s", raw, u, err, want)
		}
	}
}
