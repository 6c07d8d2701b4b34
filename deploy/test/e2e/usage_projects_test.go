package e2e_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// twoKeys is an exporter with keys of one organization, which see all of its usage.
type twoKeys struct {
	*account
	t       *testing.T
	lists   map[string]*oppertest.Server
	dir     string
	address string
	opper   string
}

func newTwoKeys(t *testing.T, names ...string) *twoKeys {
	t.Helper()
	o := &twoKeys{
		account: newAccount(oppertest.UsageTroubles{OrganizationWide: true, Duplicates: 0.3, Shuffle: true}),
		t:       t, lists: map[string]*oppertest.Server{}, dir: t.TempDir(), address: exportertest.FreeAddress(t),
	}
	projects := oppertest.Projects{}
	for _, name := range names {
		o.lists[name] = o.list(name)
		projects[keyOf(name)] = o.lists[name]
		if err := os.WriteFile(filepath.Join(o.dir, name+".key"), []byte(keyOf(name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	upstream := httptest.NewServer(projects)
	t.Cleanup(upstream.Close)
	o.opper = upstream.URL
	return o
}

// configure writes the file with these projects.
func (o *twoKeys) configure(names ...string) {
	o.t.Helper()
	text := "projects:\n"
	for _, name := range names {
		text += fmt.Sprintf("- {name: %s, api_key_file: %[1]s.key}\n", name)
	}
	next := filepath.Join(o.dir, "next")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(o.dir, "opper.yml")); err != nil {
		o.t.Fatal(err)
	}
}

func (o *twoKeys) run() *exportertest.Process {
	o.t.Helper()
	cmd := at(o.address, command(o.t, o.opper, "--config.file="+filepath.Join(o.dir, "opper.yml"), "--storage.path="+filepath.Join(o.dir, "data"),
		"--web.enable-lifecycle", fast, noSettle, readOften))
	var env []string
	for _, v := range cmd.Env {
		if !strings.HasPrefix(v, "OPPER_API_KEY=") {
			env = append(env, v)
		}
	}
	cmd.Env = env
	return exportertest.MustStart(o.t, cmd)
}

// reload loads the configuration again.
func (o *twoKeys) reload() {
	o.t.Helper()
	resp, err := http.Post("http://"+o.address+"/-/reload", "", http.NoBody)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		o.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		o.t.Fatal(resp.Status)
	}
}

// spend lets each project of the organization use some more.
func (o *twoKeys) spend(factor int64, ago time.Duration) {
	for i, name := range []string{"shop", "desk"} {
		o.call(name, "openai/gpt-5", "", factor*int64(1_000_000_007*(i+1)), ago)
		o.call(name, "mistral/large", "", factor*int64(300_000_001*(i+1)), ago)
	}
}

// watched has a Prometheus server scrape the exporter. The function that it returns fails
// the test if a stored sample of usage ever fell, and if more was ever stored than is true.
func (o *twoKeys) watched() func() {
	o.t.Helper()
	server := promtest.Start(o.t, promtest.Config{YAML: fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms}
scrape_configs: [{job_name: opper, static_configs: [{targets: [%q]}]}]
`, o.address)})
	return func() {
		o.t.Helper()
		server.WaitScrapes(o.t, "opper", 2)
		last, err := exportertest.Scrape(o.t.Context(), o.address)
		if err != nil {
			o.t.Fatal(err)
		}
		stream := raw(o.t, server)
		for key, value := range usageOf(last) {
			ends(o.t, stream, key, value)
		}
		calls := 0.0
		for _, amounts := range o.ByModel() {
			calls += float64(amounts.Calls)
		}
		v, err := server.Query(o.t.Context(), `max_over_time(sum(opper_usage_calls_total)[15m:250ms])`, time.Now())
		if err != nil || len(v) != 1 || float64(v[0].Value) != calls {
			o.t.Errorf("at most %v calls were exposed, want %v; %v", v, calls, err)
		}
	}
}

// each is for keys of which each has proven whose it is.
func each(uuid string) (project, opperProject string) {
	return strings.TrimPrefix(uuid, uuidOf("")), ""
}

// Of two keys of one organization, each counts the usage of its own project, as its traces
// prove, and none of the other's, also after kill -9.
func TestTwoKeysOfOneOrganization(t *testing.T) {
	t.Parallel()
	o := newTwoKeys(t, "shop", "desk")
	o.configure("shop", "desk")
	for _, s := range o.lists {
		o.traces(s, 3, "agent", "success", "openai/gpt-5")
	}
	o.spend(1, 30*time.Hour)
	o.spend(2, time.Minute)
	p := o.run()
	check := o.watched()
	eventually(t, p, o.counts(each))
	p.Kill()
	o.spend(3, 20*time.Hour)
	o.spend(4, 0)
	p = o.run()
	eventually(t, p, o.counts(each))
	o.spend(5, 0)
	eventually(t, p, o.counts(each))
	check()
	p.Stop(t)
}

// counted is a condition that all usage is counted once, of which another project has counted
// some of what is the own project of one.
func (o *twoKeys) counted(own, other string) func(*exportertest.Reading) error {
	return func(r *exportertest.Reading) error {
		there := fmt.Sprintf("opper_project=%q,project=%q", uuidOf(own), other)
		here := fmt.Sprintf("opper_project=%q,project=%q", "", own)
		got, want := exportertest.Series{}, o.series(each) // asked after the scrape, as usage grows
		calls := 0.0
		for key, value := range usageOf(r) {
			if strings.HasPrefix(key, "opper_usage_calls_total") && strings.Contains(key, here) {
				calls += value
			}
			key = strings.Replace(key, there, here, 1)
			if got[key] = math.Round((got[key]+value)*nanos) / nanos; got[key] > want[key] {
				return fmt.Errorf("%w: %s is %v, want %v", errTooMuch, key, got[key], want[key])
			}
		}
		if calls == 0 {
			return fmt.Errorf("%s has counted no call of its own project", own)
		}
		return differ(got, want)
	}
}

// A key that is added while another one counts the whole organization counts its own project
// from then on: nothing is counted for both, and all of it is, also after a restart.
func TestSecondKeyOfAnOrganization(t *testing.T) {
	t.Parallel()
	o := newTwoKeys(t, "shop", "desk")
	o.configure("shop")
	for _, s := range o.lists {
		o.traces(s, 3, "agent", "success", "openai/gpt-5")
	}
	o.spend(1, 30*time.Hour)
	p := o.run()
	check := o.watched()
	eventually(t, p, o.counts(func(uuid string) (project, opperProject string) {
		if uuid == uuidOf("shop") {
			return "shop", ""
		}
		return "shop", uuid
	}))
	o.configure("desk", "shop")
	o.reload()
	for factor := int64(2); ; factor++ {
		o.spend(factor, 0)
		r, err := exportertest.Scrape(t.Context(), o.address)
		if err != nil {
			t.Fatal(err)
		}
		if r.Lasting.Total("opper_usage_calls_total", `project="desk"`) > 0 {
			break
		}
		eventually(t, p, func(next *exportertest.Reading) error {
			const success = `opper_exporter_usage_last_success_timestamp_seconds{kind="model",project="shop"}`
			if next.Rest[success] <= r.Rest[success] {
				return errors.New("usage has not been read since")
			}
			return nil
		})
	}
	eventually(t, p, o.counted("desk", "shop"))
	p.Stop(t)
	p = o.run()
	o.spend(3, 0)
	last := eventually(t, p, o.counted("desk", "shop"))
	check()
	p.Stop(t)
	// Each takes over from the other while the exporter is stopped.
	calls := map[string]float64{}
	for _, name := range []string{"desk", "shop"} {
		calls[name] = last.Lasting.Total("opper_usage_calls_total", fmt.Sprintf("project=%q", name))
	}
	for _, name := range []string{"desk", "shop", "desk"} {
		o.configure(name)
		o.spend(4, 0)
		p = o.run()
		o.spend(5, 0)
		eventually(t, p, func(r *exportertest.Reading) error {
			calls[name] = r.Lasting.Total("opper_usage_calls_total", fmt.Sprintf("project=%q", name))
			var want float64
			for _, amounts := range o.ByModel() {
				want += float64(amounts.Calls)
			}
			switch got := calls["desk"] + calls["shop"]; {
			case got > want:
				return fmt.Errorf("%w: %v calls, want %v", errTooMuch, calls, want)
			case got < want:
				return fmt.Errorf("%v calls, want %v", calls, want)
			}
			return nil
		})
		p.Stop(t)
	}
}
