package oppertest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProjectsAreToldApartByKey(t *testing.T) {
	p := Projects{"a": New(Config{}), "b": New(Config{})}
	p["a"].Add(Trace{ID: "of-a"})
	p["b"].Add(Trace{ID: "of-b"})
	for key, want := range map[string]string{"a": "of-a", "b": "of-b", "c": "", "": "", "the key of nobody ": ""} {
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/traces", http.NoBody)
		r.Header.Set("Authorization", "Bearer "+key)
		p.ServeHTTP(w, r)
		if refused := w.Code == http.StatusUnauthorized; refused != (want == "") || !strings.Contains(w.Body.String(), want) {
			t.Errorf("key %q: %d, %s", key, w.Code, w.Body)
		}
	}
}
