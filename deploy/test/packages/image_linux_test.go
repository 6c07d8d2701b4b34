package packages_test

import (
	"debug/elf"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

const anyPort = "--web.listen-address=127.0.0.1:0"

func TestImageRuns(t *testing.T) {
	t.Parallel()
	c := images(t)["exporter"].unpack(t)
	server := opper(t, httptest.NewTLSServer)
	c.trust(t, server)
	if c.user == 0 {
		t.Error("the user is root")
	}
	before := c.tree(t)
	p := exportertest.MustStart(t, c.command([]string{"OPPER_API_KEY=" + key, "OPPER_BASE_URL=" + server.URL},
		slices.Concat(c.entrypoint, c.cmd, []string{anyPort, "--collector.initial-lookback=all"})...))
	address := p.AwaitListening(t)
	metrics := counted(t, p, address)
	for _, want := range []string{`opper_traces_listed{project="default"} 200`, `opper_exporter_state_commits_total{project="default",result="success"} 0`, `version="1.2.3"`, `revision="abc"`, `branch="main"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	p.AwaitLog(t, "level=warn", "persistence disabled")

	check := c.command(nil, append(c.healthcheck[1:], "http://"+address+"/-/healthy")...)
	if out, err := check.CombinedOutput(); c.healthcheck[0] != "CMD" || err != nil {
		t.Errorf("health check: %v\n%s", err, out)
	}
	p.Stop(t)
	check = c.command(nil, check.Args...)
	if out, err := check.CombinedOutput(); check.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "connection refused") {
		t.Errorf("health check of what has ended: %v\n%s", err, out)
	}
	if after := c.tree(t); !maps.Equal(before, after) {
		t.Errorf("files have changed: before %v, after %v", before, after)
	}
}

func TestImageKeepsItsStateInTheVolume(t *testing.T) {
	t.Parallel()
	c := images(t)["exporter"].unpack(t)
	server := opper(t, httptest.NewServer)
	args := append(slices.Clone(c.entrypoint), "--storage.path=/var/lib/opper_exporter", "--opper.url="+server.URL, anyPort)
	env := []string{"OPPER_API_KEY=" + key}
	for _, line := range []string{"initial sync complete", "state restored"} {
		p := exportertest.MustStart(t, c.command(env, args...))
		counted(t, p, p.AwaitListening(t))
		p.AwaitLog(t, line)
		p.Stop(t)
	}
}

func TestImageWithFlagsAsksForTheStorage(t *testing.T) {
	t.Parallel()
	c := images(t)["exporter"].unpack(t)
	cmd := c.command([]string{"OPPER_API_KEY=" + key}, append(slices.Clone(c.entrypoint), anyPort)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "--storage.path: ") || !strings.Contains(string(out), "permission denied") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestImageOfTheDemoRuns(t *testing.T) {
	t.Parallel()
	c := images(t)["demo"].unpack(t)
	p := exportertest.MustStart(t, c.command(nil, append(slices.Clone(c.entrypoint), anyPort, "--opper.listen-address=127.0.0.1:0", "--history=10m")...))
	counted(t, p, p.AwaitListening(t), "demo")
	p.Stop(t)
	if left, err := os.ReadDir(filepath.Join(c.root, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// As compose runs it, it has written the history for Prometheus when it is ready, and
// leaves a Prometheus alone that has data.
func TestImageOfTheDemoWritesTheHistory(t *testing.T) {
	t.Parallel()
	project, err := compose(t, nil, "compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	service := project.Services["exporter"]
	c := images(t)["demo"].unpack(t)
	if c.user, err = userID(service.User); err != nil {
		t.Fatal(err)
	}
	// In place of the tmpfs, which is everybody's.
	if err := os.Chmod(filepath.Join(c.root, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	args := slices.DeleteFunc(slices.Clone(service.Command), func(arg string) bool { return strings.HasPrefix(arg, "--web.listen-address=") })
	args = slices.Concat(c.entrypoint, args, []string{anyPort, "--opper.listen-address=127.0.0.1:0", "--history=10m"})
	blocks := 0
	for range 2 {
		p := exportertest.MustStart(t, c.command(nil, args...))
		counted(t, p, p.AwaitListening(t), "demo")
		p.Stop(t)
		found := glob(t, filepath.Join(c.root, "prometheus/*/meta.json"))
		if blocks == 0 {
			blocks = len(found)
		}
		if len(found) == 0 || len(found) != blocks {
			t.Errorf("the blocks are %v, %d before", found, blocks)
		}
	}
}

func TestImageNeedsNothingOfTheSystem(t *testing.T) {
	t.Parallel()
	c := images(t)["demo"].unpack(t)
	for _, path := range glob(t, filepath.Join(c.root, "bin/*")) {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is not static: %v", path, p.Type)
			}
		}
		if err = f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestImageTellsWhatItIs(t *testing.T) {
	t.Parallel()
	all := images(t)
	binary := exportertest.Binary(t)
	help, err := exec.CommandContext(t.Context(), binary, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	// The health check asks the default port too.
	port := regexp.MustCompile(`--web\.listen-address=:(\d+)`).FindStringSubmatch(string(help))
	if port == nil {
		t.Fatalf("no default port in\n%s", help)
	}
	if source := read(t, filepath.Join(top, "deploy/container/healthcheck/main.go")); !strings.Contains(source, `"http://127.0.0.1:`+port[1]+`/-/healthy"`) {
		t.Errorf("the health check does not ask port %s", port[1])
	}
	for _, name := range []string{"exporter", "demo"} {
		i := all[name]
		if !slices.Equal(i.exposed, port[1:]) {
			t.Errorf("%s exposes %v, want %s", name, i.exposed, port[1])
		}
		for label, want := range map[string]string{"title": "opper_exporter", "version": "1.2.3", "revision": "abc", "licenses": "Apache-2.0"} {
			if got := i.labels["org.opencontainers.image."+label]; got != want {
				t.Errorf("the label %s of %s is %q, want %q", label, name, got, want)
			}
		}
	}
}

// The command line is the chart's, and the key where the chart mounts it, readable
// for the group only.
func TestImageRunsAsTheChartSays(t *testing.T) {
	t.Parallel()
	server := opper(t, httptest.NewServer)
	from := small(t)
	for name, healthy := range map[string]string{"default": "state restored", "no-persistence": "persistence disabled", "everything": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := images(t)["exporter"].unpack(t)
			out, log, err := helmRun(t, "template", release, from, "--values=testdata/values/"+name+".yaml", "--set=opper.url="+server.URL)
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			command := slices.Concat(c.entrypoint, anyHealthPort(args(t, out)), []string{anyPort})
			for _, mount := range []string{"mountPath: /run/secrets/opper\n", "path: api-key\n"} {
				if !strings.Contains(out, mount) {
					t.Errorf("no %s in the manifest", mount)
				}
			}
			c.mount(t, "run/secrets/opper/api-key", key)
			if name == "everything" {
				mountWebConfig(t, c, out)
			}
			p := exportertest.MustStart(t, c.command(nil, command...))
			address := p.AwaitListening(t)
			if healthy == "" {
				p.Stop(t) // it takes all the flags
				return
			}
			counted(t, p, address)
			p.Stop(t)
			p = exportertest.MustStart(t, c.command(nil, command...))
			p.AwaitLog(t, healthy)
			counted(t, p, p.AwaitListening(t))
			p.Stop(t)
		})
	}
}

// Keys, state and tests are in the directory of the project, and not in the context.
func TestImageIsMadeFromSourcesOnly(t *testing.T) {
	t.Parallel()
	var file parsed
	if err := decoded(t, &file, nil, "dockerfile", filepath.Join(top, "deploy/container/Dockerfile"), top); err != nil {
		t.Fatal(err)
	}
	embedded := []string{".css", ".html"} // of the status page
	for _, name := range file.Context {
		if slices.Contains(embedded, filepath.Ext(name)) && filepath.Dir(name) == "collector/statuspage" {
			continue
		}
		if base := filepath.Base(name); base != "go.mod" && base != "go.sum" && (filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go")) {
			t.Errorf("%s is sent to the engine", name)
		}
	}
	// The final stages are known by name, and the last is the default.
	if last := file.Stages[len(file.Stages)-1]; last.Name != "exporter" {
		t.Errorf("the default stage is %s", last.Name)
	}
}
