package packages_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

const (
	chart = top + "/deploy/helm/opper-exporter"
	// release is the name that charts are rendered with.
	release = "traces"
)

// helm builds helm, once, as its module pins it.
var helm = sync.OnceValues(func() (string, error) {
	var path bytes.Buffer
	err := run(top, &path, nil, "go", "tool", "-modfile=deploy/test/tools/helm/go.mod", "-n", "helm")
	return strings.TrimSpace(path.String()), err
})

// helmRun runs helm, away from the settings of the user, and returns what it
// printed on either output.
func helmRun(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	promtest.DependOnSources(t)
	binary, err := helm()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "HELM_CACHE_HOME="+home)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err = cmd.Run()
	return out.String(), log.String(), err
}

// small returns the chart with a rule file and a dashboard that are small enough
// for a golden file.
func small(t testing.TB) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "opper-exporter")
	if err := os.CopyFS(to, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(to, "files")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(to, "files"), os.DirFS("testdata/chart-files")); err != nil {
		t.Fatal(err)
	}
	return to
}

// manifests fails the test unless each manifest is of a kind of Kubernetes, and has
// the fields of that kind only.
func manifests(t testing.TB, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "manifests"))
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestChartIsRendered(t *testing.T) {
	t.Parallel()
	from := small(t)
	for _, values := range glob(t, "testdata/values/*.yaml") {
		name := strings.TrimSuffix(filepath.Base(values), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, log, err := helmRun(t, "lint", "--strict", "--values="+values, from); err != nil || strings.Contains(out+log, "WARN") {
				t.Errorf("helm lint: %v\n%s%s", err, out, log)
			}
			out, log, err := helmRun(t, "template", release, from, "--namespace=monitoring", "--values="+values)
			if err != nil || log != "" {
				t.Fatalf("helm template: %v\n%s", err, log)
			}
			for i, line := range strings.Split(out, "\n") {
				if strings.HasSuffix(line, " ") {
					t.Errorf("white space at the end of line %d: %q", i+1, line)
				}
			}
			manifests(t, out)
			golden(t, "chart-"+name+".golden", out)
		})
	}
}

func TestChartPassesLint(t *testing.T) {
	t.Parallel()
	if out, log, err := helmRun(t, "lint", "--strict", chart); err != nil || strings.Contains(out+log, "WARN") {
		t.Errorf("%v\n%s%s", err, out, log)
	}
}

// Each mistake gives one error, which names the value.
func TestChartRefusesBadValues(t *testing.T) {
	t.Parallel()
	from := small(t)
	for name, test := range map[string]struct {
		set  []string
		want string
	}{
		"no key":             {nil, "set opper.apiKey, or opper.existingSecret to the name of a Secret that holds the key"},
		"one and many":       {[]string{"opper.apiKey=k", "projects.existingSecret=keys"}, "for one project, or projects for many, not both"},
		"one name for many":  {[]string{"opper.project=a", "projects.existingSecret=keys"}, "for one project, or projects for many, not both"},
		"targets, no scrape": {[]string{"projects.existingSecret=keys", "serviceMonitor.targetPerProject=true"}, "serviceMonitor.targetPerProject needs serviceMonitor.enabled"},
		"an unnamed project": {[]string{"projects.config.projects[0].interval=1m"}, "at '/projects/config/projects/0': missing property 'name'"},
		"unknown section":    {[]string{"projects.config.project=a"}, "at '/projects/config': additional properties 'project' not allowed"},
		"relative directory": {[]string{"projects.config.project_key_directories={keys}"}, "at '/projects/config/project_key_directories/0': 'keys' does not match pattern"},
		"the file as a flag": {[]string{"opper.apiKey=k", `flags.config\.file=/x`}, "at '/flags': additional properties 'config.file' not allowed"},
		"unknown at the top": {[]string{"opper.apiKey=k", "replica=2"}, "at '': additional properties 'replica' not allowed"},
		"unknown value":      {[]string{"opper.apikey=k"}, "at '/opper': additional properties 'apikey' not allowed"},
		"not a number":       {[]string{"opper.apiKey=k", "replicas=two"}, "at '/replicas': got string, want integer"},
		"not a URL":          {[]string{"opper.apiKey=k", "opper.url=api.opper.ai"}, "at '/opper/url': 'api.opper.ai' does not match pattern"},
		"a flag of a value":  {[]string{"opper.apiKey=k", `flags.opper\.project=x`}, "at '/flags': additional properties 'opper.project' not allowed"},
		"an unknown flag":    {[]string{"opper.apiKey=k", `flags.collector\.abandon-afer=2h`}, "at '/flags': additional properties 'collector.abandon-afer' not allowed"},
		"a switch with text": {[]string{"opper.apiKey=k", `flags.collector\.native-histograms=off`}, "at '/flags/collector.native-histograms': got string, want boolean"},
		"a flag twice":       {[]string{"opper.apiKey=k", `flags.log\.level={info,debug}`}, "at '/flags/log.level': got array, want number or string"},
		"a storage path":     {[]string{"opper.apiKey=k", `flags.storage\.path=/x`}, "at '/flags': additional properties 'storage.path' not allowed"},
		"a flag with dashes": {[]string{"opper.apiKey=k", `flags.--log\.level=debug`}, "at '/flags': additional properties '--log.level' not allowed"},
		"no access mode":     {[]string{"opper.apiKey=k", "persistence.accessModes={ReadOnlyMany}"}, "at '/persistence/accessModes/0'"},
		"not a digest":       {[]string{"opper.apiKey=k", "image.digest=latest"}, "at '/image/digest': 'latest' does not match pattern"},
		"not a duration":     {[]string{"opper.apiKey=k", "serviceMonitor.interval=30"}, "at '/serviceMonitor/interval': got number, want string"},
		"another release": {
			[]string{"opper.apiKey=k", "image.tag=1.2.3"},
			"image.tag is 1.2.3, but flags, rules and dashboards of this chart are those of 0.1.0: use the chart of that release, or leave image.tag empty",
		},
		"another release by its first number": {
			[]string{"opper.apiKey=k", "image.tag=v2"},
			"image.tag is v2, but flags, rules and dashboards of this chart are those of 0.1.0: use the chart of that release, or leave image.tag empty",
		},
		"another release by two numbers": {
			[]string{"opper.apiKey=k", "image.tag=0.10"},
			"image.tag is 0.10, but flags, rules and dashboards of this chart are those of 0.1.0: use the chart of that release, or leave image.tag empty",
		},
		"a record that is no threshold": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: [{rules: [{record: opper:treshold:success_ratio}]}]"},
			"prometheusRule.thresholds has opper:treshold:success_ratio, which is no threshold of this release",
		},
		"a threshold with another label": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: [{rules: [{record: opper:threshold:success_ratio\\, labels: {name: a}}]}]"},
			"prometheusRule.thresholds has opper:threshold:success_ratio with the label name: expected project, trace_name or none",
		},
		"a threshold of projects for a name": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: [{rules: [{record: opper:threshold:gaps\\, labels: {trace_name: a}}]}]"},
			"prometheusRule.thresholds has opper:threshold:gaps with the label trace_name: it is of whole projects",
		},
		"a threshold less": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: []"},
			"prometheusRule.thresholds lacks opper:threshold:success_ratio without labels, which the alerts of this release compare with",
		},
		"a threshold for one project only": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: [{rules: [{record: opper:threshold:success_ratio\\, labels: {project: a}}]}]"},
			"prometheusRule.thresholds lacks opper:threshold:success_ratio without labels, which the alerts of this release compare with",
		},
		"a threshold more": {
			[]string{"opper.apiKey=k", "prometheusRule.enabled=true", "prometheusRule.thresholds=groups: [{rules: [{record: opper:threshold:success_ratio}\\, {record: opper:threshold:succes_ratio}]}]"},
			"prometheusRule.thresholds has opper:threshold:succes_ratio, which is no threshold of this release",
		},
		"two web configurations": {
			[]string{"opper.apiKey=k", "webConfig.content.rate_limit.burst=1", "webConfig.existingSecret=web"},
			"set webConfig.content or webConfig.existingSecret, not both",
		},
		"a certificate for nothing": {
			[]string{"opper.apiKey=k", "webConfig.certificateSecret=tls"},
			"webConfig.certificateSecret needs webConfig.content or webConfig.existingSecret, which names the files",
		},
		"a scrape without TLS": {
			[]string{"opper.apiKey=k", "serviceMonitor.enabled=true", "webConfig.content.tls_server_config.cert_file=tls.crt"},
			"webConfig.content has tls_server_config: set serviceMonitor.tlsConfig too, such as {insecureSkipVerify: true}",
		},
		"a scrape without a password": {
			[]string{"opper.apiKey=k", "serviceMonitor.enabled=true", "webConfig.content.basic_auth_users.a=b"},
			"webConfig.content has basic_auth_users: set serviceMonitor.basicAuth too",
		},
		"a user without a password": {
			[]string{"opper.apiKey=k", "serviceMonitor.basicAuth.username.name=a", "serviceMonitor.basicAuth.username.key=b"},
			"at '/serviceMonitor/basicAuth': properties 'password' required, if 'username' exists",
		},
		"port out of range": {[]string{"opper.apiKey=k", "networkPolicy.egressPorts={70000}"}, "at '/networkPolicy/egressPorts/0': maximum: got 70,000, want 65,535"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"template", release, from}
			for _, set := range test.set {
				args = append(args, "--set="+set)
			}
			_, log, err := helmRun(t, args...)
			if err == nil || !strings.Contains(log, test.want) {
				t.Errorf("%v, want %s in\n%s", err, test.want, log)
			}
			if n := strings.Count(log, "\n- at '"); n > 1 {
				t.Errorf("%d errors for one mistake:\n%s", n, log)
			}
		})
	}
}

var argLine = regexp.MustCompile(`(?m)^            - ("?--.*)$`)

// args returns the arguments of the exporter in rendered manifests.
func args(t testing.TB, text string) []string {
	t.Helper()
	var found []string
	for _, match := range argLine.FindAllStringSubmatch(text, -1) {
		arg := match[1]
		if strings.HasPrefix(arg, `"`) {
			if err := json.Unmarshal([]byte(arg), &arg); err != nil {
				t.Fatal(err)
			}
		}
		found = append(found, arg)
	}
	if len(found) == 0 {
		t.Fatal("no arguments")
	}
	return found
}

// sources are the files that the chart has copies of.
func sources(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for pattern, to := range map[string]string{"prometheus/opper_*.yml": "rules", "grafana/dashboards/*.json": "dashboards"} {
		for _, path := range glob(t, filepath.Join(top, "deploy", pattern)) {
			found[filepath.Join(chart, "files", to, filepath.Base(path))] = read(t, path)
		}
	}
	return found
}

// A chart cannot read what is outside of its directory.
func TestChartHasTheRulesAndDashboards(t *testing.T) {
	want := sources(t)
	if *update {
		if err := os.RemoveAll(filepath.Join(chart, "files")); err != nil {
			t.Fatal(err)
		}
		for path, content := range want {
			write(t, path, content)
		}
	}
	got := glob(t, filepath.Join(chart, "files/*/*"))
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("the chart has %q, want %q; go test ./deploy/test/packages -update copies them", got, slices.Sorted(maps.Keys(want)))
	}
	for path, content := range want {
		if slices.Contains(got, path) && read(t, path) != content {
			t.Errorf("%s is not as its original; go test ./deploy/test/packages -update copies it", path)
		}
	}

	out, log, err := helmRun(t, "template", release, chart, "--set=opper.apiKey=k,prometheusRule.enabled=true,dashboards.enabled=true")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	manifests(t, out)
	for path, content := range want {
		size := len(content)
		if size > 900<<10 {
			t.Errorf("%s has %d bytes, and a ConfigMap at most 1 MiB", path, size)
		}
		lines := strings.Split(strings.TrimSpace(content), "\n")
		indent := "  "
		if filepath.Ext(path) == ".json" {
			indent = "    "
		}
		for i, line := range lines {
			if line != "" {
				lines[i] = indent + line
			}
		}
		if !strings.Contains(withoutIndent.ReplaceAllString(out, ""), strings.Join(lines, "\n")) {
			t.Errorf("%s is not as it was in what the chart gives", path)
		}
	}
}

// withoutIndent finds lines of white space only.
var withoutIndent = regexp.MustCompile(`(?m)^ +$`)

func TestChartCanBePackaged(t *testing.T) {
	t.Parallel()
	to := t.TempDir()
	if out, log, err := helmRun(t, "package", chart, "--destination="+to); err != nil || log != "" {
		t.Fatalf("%v\n%s%s", err, out, log)
	}
	out, log, err := helmRun(t, "template", release, glob(t, filepath.Join(to, "*.tgz"))[0], "--set=opper.apiKey=k,prometheusRule.enabled=true,dashboards.enabled=true")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for _, kind := range []string{"StatefulSet", "PrometheusRule", "ConfigMap"} {
		if !strings.Contains(out, "\nkind: "+kind+"\n") {
			t.Errorf("no %s in the package", kind)
		}
	}
}

// The values that the documentation shows are taken.
func TestChartTakesTheDocumentedValues(t *testing.T) {
	t.Parallel()
	for _, document := range []string{"deploy/helm/README.md", "deploy/docs/configuration.md"} {
		found := 0
		for _, block := range yamlBlock.FindAllStringSubmatch(read(t, filepath.Join(top, document)), -1) {
			if strings.HasPrefix(block[1], "apiVersion:") {
				manifests(t, block[1])
				continue
			}
			values := []string{"webConfig:", "extraVolumes:", "existingSecret:"}
			if !slices.ContainsFunc(values, func(value string) bool { return strings.Contains(block[1], value) }) {
				continue
			}
			found++
			set := "--set=opper.apiKey=k"
			if strings.HasPrefix(block[1], "projects:") {
				set = "--set=replicas=1"
			}
			path := filepath.Join(t.TempDir(), "values.yaml")
			write(t, path, block[1])
			out, log, err := helmRun(t, "template", release, chart, "--values="+path, set)
			if err != nil {
				t.Errorf("%s: %v\n%s", document, err, log)
				continue
			}
			manifests(t, out)
		}
		if found == 0 {
			t.Errorf("%s has no values", document)
		}
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
