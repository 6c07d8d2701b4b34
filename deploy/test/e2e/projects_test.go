package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// organization is many projects at one Opper, and an exporter whose configuration is
// the directory of their keys.
type organization struct {
	t       *testing.T
	opper   oppertest.Projects
	command func() *exec.Cmd
	address string
	keys    string // the directory
}

// known are the names of which each project has traces from the start. The first counts
// of other names may take minutes, as they wait for each connection of the server.
var known = []string{"old", "steady"}

func keyOf(project string) string { return "key-of-" + project }

// newOrganization makes lists for projects, of which the first are configured.
func newOrganization(t *testing.T, configured int, names []string, args ...string) *organization {
	t.Helper()
	dir := t.TempDir()
	o := &organization{t: t, opper: oppertest.Projects{}, address: exportertest.FreeAddress(t), keys: filepath.Join(dir, "keys")}
	if err := os.Mkdir(o.keys, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		s := oppertest.New(oppertest.Config{Key: keyOf(name)})
		for _, name := range known {
			s.Add(many(i+1, name, "success", time.Now().Add(-3*time.Hour))...)
		}
		o.opper[keyOf(name)] = s
		if i < configured {
			o.key(name, keyOf(name))
		}
	}
	file := filepath.Join(dir, "opper.yml")
	if err := os.WriteFile(file, []byte("project_key_directories: [keys]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(o.opper)
	t.Cleanup(upstream.Close)
	o.command = func() *exec.Cmd {
		cmd := at(o.address, command(t, upstream.URL, append([]string{
			"--config.file=" + file, "--storage.path=" + filepath.Join(dir, "data"), noSettle,
		}, args...)...))
		cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "OPPER_API_KEY=") })
		return cmd
	}
	return o
}

// key makes a project of a key, as a mounted Secret does.
func (o *organization) key(project, key string) {
	o.t.Helper()
	path := filepath.Join(o.keys, project)
	hidden := filepath.Join(o.keys, ".new")
	if err := os.WriteFile(hidden, []byte(key), 0o600); err != nil {
		o.t.Fatal(err)
	}
	if err := os.Rename(hidden, path); err != nil {
		o.t.Fatal(err)
	}
}

// add adds traces to a project.
func (o *organization) add(project string, traces ...oppertest.Trace) {
	o.opper[keyOf(project)].Add(traces...)
}

// truth is what is to be counted, by project and outcome.
func (o *organization) truth(projects ...string) map[string]float64 {
	truth := map[string]float64{}
	for _, name := range projects {
		for _, outcome := range []string{"success", "failure", "unknown", "abandoned"} {
			truth[name+" "+outcome] = 0
		}
		for _, tr := range o.opper[keyOf(name)].Snapshot() {
			truth[name+map[string]string{"success": " success", "error": " failure"}[*tr.Status]]++
		}
	}
	return truth
}

// bySDYAML discovers all that an exporter serves.
const bySDYAML = "- {job_name: %s, honor_labels: %v, http_sd_configs: [{url: \"http://%s/sd\", refresh_interval: 1s}]}\n"

// values returns what an expression gives, by the values of labels.
func values(ctx context.Context, p *promtest.Server, promql string, labels ...string) (map[string]float64, error) {
	v, err := p.Query(ctx, promql, time.Now())
	if err != nil {
		return nil, err
	}
	got := map[string]float64{}
	for _, sample := range v {
		var key []string
		for _, l := range labels {
			key = append(key, string(sample.Metric[model.LabelName(l)]))
		}
		got[strings.Join(key, " ")] = float64(sample.Value)
	}
	return got, nil
}

// differ says where two maps differ, for a few keys.
func differ(got, want map[string]float64) error {
	both := maps.Clone(got)
	maps.Copy(both, want)
	var all []error
	for _, key := range slices.Sorted(maps.Keys(both)) {
		g, ok := got[key]
		if w, wanted := want[key]; (ok != wanted || g != w) && len(all) < 5 {
			all = append(all, fmt.Errorf("%s: %v (there: %v), want %v (there: %v)", key, g, ok, w, wanted))
		}
	}
	return errors.Join(all...)
}

// A directory of keys is all that the exporter is told, and /sd all that the server is.
// Each number is right and has its project, however often the exporter is killed;
// projects come, go and fail, and the others do not notice.
func TestFiftyProjectsByDiscovery(t *testing.T) {
	t.Parallel()
	const removed, refused, late = "project-07", "project-23", "late"
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("project-%02d", i))
	}
	o := newOrganization(t, len(names), append(slices.Clone(names), late), "--collector.interval=1s")
	process := exportertest.MustStart(t, o.command())
	process.AwaitReady(t)
	rules, files := acceleratedRules(t)
	server := promtest.Start(t, promtest.Config{
		YAML: "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: " + files +
			"\nscrape_configs:\n" + fmt.Sprintf(bySDYAML, "opper", true, o.address),
		RuleFiles: rules,
	})
	gives := func(want map[string]float64, promql string, labels ...string) {
		t.Helper()
		promtest.Eventually(t, func() error {
			got, err := values(t.Context(), server, promql, labels...)
			if err == nil {
				err = differ(got, want)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", promql, err)
			}
			return nil
		})
	}
	each := func(value float64, projects ...string) map[string]float64 {
		all := map[string]float64{}
		for _, name := range projects {
			all[name] = value
		}
		return all
	}
	const counted = `sum by (project, outcome) (opper_traces_total)`

	gives(each(1, names...), `count by (project) (opper_up == 1)`, "project")
	gives(each(1, append([]string{""}, names...)...), `count by (project) (up == 1)`, "project")
	gives(o.truth(names...), counted, "project", "outcome")
	gives(map[string]float64{}, `count by (__name__) ({job="opper",project="",__name__!~"up|scrape_.*|go_.*|process_.*|promhttp_.*|opper_exporter_(build_info|projects|config_last_reload_.*)"})`, "__name__")
	gives(map[string]float64{}, `count by (__name__) ({job="opper",project!="",__name__=~"go_.*|process_.*|promhttp_.*"})`, "__name__")
	gives(map[string]float64{}, `count by (__name__) ({exported_project!=""})`, "__name__")

	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		rng := rand.New(rand.NewPCG(1, 2))
		for n := 0; ctx.Err() == nil; n++ {
			tr := ended(known[rng.IntN(len(known))])
			tr.ID = fmt.Sprint("traffic-", n)
			tr.Status = new([]string{"success", "error"}[rng.IntN(2)])
			o.add(names[rng.IntN(len(names))], tr)
			<-tick.C
		}
	})
	for range 3 {
		before, err := values(t.Context(), server, `sum(opper_traces_total)`)
		if err != nil {
			t.Fatal(err)
		}
		promtest.Eventually(t, func() error {
			now, err := values(t.Context(), server, `sum(opper_traces_total)`)
			if err == nil && now[""] < before[""]+100 {
				err = fmt.Errorf("%v traces are counted after %v", now, before)
			}
			return err
		})
		process.MustRun(t)
		process.Kill()
		process = exportertest.MustStart(t, o.command())
		process.AwaitReady(t)
	}
	stop()
	working.Wait()
	gives(o.truth(names...), counted, "project", "outcome")
	gives(each(0, names...), `max by (project) (resets(opper_traces_total[15m]))`, "project")

	// Nobody tells the exporter or the server.
	names = append(names, late)
	o.key(late, keyOf(late))
	gives(each(1, names...), `count by (project) (opper_up == 1)`, "project")
	gives(o.truth(names...), counted, "project", "outcome")

	o.key(refused, "revoked")
	gives(each(0, refused), `opper_up == 0`, "project")
	frozen := o.truth(refused)
	for _, name := range names {
		o.add(name, many(2, known[0], "error", time.Now())...)
	}
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == refused })
	want := o.truth(others...)
	maps.Copy(want, frozen)
	gives(want, counted, "project", "outcome")
	gives(each(1, refused), `count by (project) (ALERTS{alertstate="firing",alertname="OpperKeyRefused"})`, "project")
	gives(each(1, others...), `opper_up == 1`, "project")
	gives(each(1, append([]string{""}, names...)...), `up`, "project")
	o.key(refused, keyOf(refused))
	gives(o.truth(names...), counted, "project", "outcome")
	gives(each(1, refused), `group by (project) (last_over_time(ALERTS{alertstate="firing",alertname=~"OpperKeyRefused|OpperSyncFailing"}[15m]))`, "project")

	if err := os.Remove(filepath.Join(o.keys, removed)); err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == removed })
	// Rules remember it for a day.
	gives(map[string]float64{}, `count by (__name__) ({job="opper",project="`+removed+`",__name__!~".+:.+"})`, "__name__")
	gives(o.truth(names...), counted, "project", "outcome")
	gives(map[string]float64{"": float64(len(names))}, `opper_exporter_projects`)
	process.Stop(t)
}
