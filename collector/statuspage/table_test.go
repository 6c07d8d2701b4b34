package statuspage

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"opper_exporter/collector/status"
)

// The worst stand above, and each has an address of its own.
func TestTableOfProjects(t *testing.T) {
	last := healthy()
	last.Name = "all good"
	projects := append(many(5), last)
	text := rendered(t, testConfig(), projects...)
	var names []string
	for _, link := range regexp.MustCompile(`<a href="\./\?project=([^"]*)">`).FindAllStringSubmatch(text, -1) {
		name, err := url.QueryUnescape(link[1])
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if want := []string{hostile().Name, "customer-0002", "customer-0003", "customer-0001", "all good", "customer-0004"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if strings.Contains(text, "Last failures") {
		t.Error("projects are shown in full")
	}
}

func TestTableShowsSpend(t *testing.T) {
	near, unlimited, unread, off := failing(), healthy(), healthy(), healthy()
	off.Name = "off"
	unlimited.Usage.Budget.HasLimit = false
	unread.Usage.Budget = nil
	off.Usage = nil
	for want, p := range map[string]status.Project{
		`<strong class="text-notice">$5,000.21</strong>, 100 %`: near, "$2,281.54, 45 %": healthy(), "$2,281.54": unlimited, "–": unread,
	} {
		if text := rendered(t, testConfig(), p, off); !regexp.MustCompile(`<bdi>checkout</bdi>(.*\n){4}<td class="wide">`+regexp.QuoteMeta(want)+"</td></tr>").MatchString(text) || !strings.Contains(text, "Spent this month") {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if text := rendered(t, testConfig(), off, off); strings.Contains(text, "Spent this month") {
		t.Error("a column without any usage")
	}
}

func TestPageOfOneProject(t *testing.T) {
	projects := many(3)
	handler := New(testConfig(), func() []status.Project { return slices.Clone(projects) })
	get := func(query string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/"+query, http.NoBody))
		return w.Code, w.Body.String()
	}
	for _, p := range projects {
		code, text := get("?project=" + url.QueryEscape(p.Name))
		if code != http.StatusOK || strings.Count(text, "<h2>") != 1 || !strings.Contains(text, "<h3>Collection</h3>") || !strings.Contains(text, `<a href="./">All projects</a>`) {
			t.Errorf("%.40q: %d, %.200s", p.Name, code, text)
		}
	}
	if code, text := get("?project=none%0A"); code != http.StatusNotFound || text != "There is no project \"none\\n\".\n" {
		t.Errorf("none: %d, %q", code, text)
	}
	projects = projects[1:2]
	if code, text := get(""); code != http.StatusOK || !strings.Contains(text, "<h3>Collection</h3>") || strings.Contains(text, "All projects") {
		t.Errorf("the only project: %d, %.200s", code, text)
	}
}

func TestManyProjectsAreAPageOfBoundedSize(t *testing.T) {
	projects := many(1000)
	for i := range projects {
		projects[i].Sync.LastError = strings.Repeat("x", 1000)
	}
	if text := rendered(t, testConfig(), projects...); len(text) > 1<<20 {
		t.Errorf("%d bytes", len(text))
	}
}
