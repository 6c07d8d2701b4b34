package packages_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// project is the part of a Compose project that is looked at.
type project struct {
	Services map[string]struct {
		Image string
		Build *struct{ Context, Dockerfile, Target string }

		User        string
		Command     []string
		Environment map[string]*string
		Tmpfs       []string
		Ports       []struct {
			HostIP string `json:"host_ip"`
		}
		Healthcheck *struct{ Test []string }
		Volumes     []volume

		ReadOnly    bool     `json:"read_only"`
		CapDrop     []string `json:"cap_drop"`
		SecurityOpt []string `json:"security_opt"`
	}
	Volumes map[string]any
}

type volume struct {
	Type, Source, Target string
	ReadOnly             bool `json:"read_only"`
}

const containers = top + "/deploy/container"

func compose(t testing.TB, env []string, names ...string) (*project, error) {
	t.Helper()
	files := make([]string, len(names))
	for i, name := range names {
		files[i] = filepath.Join(containers, name)
		read(t, files[i]) // a cached result ends with a change of it
	}
	p := new(project)
	err := decoded(t, p, env, "compose", files...)
	return p, err
}

// variants are the ways to start it, and what each asks for.
var variants = map[string]struct {
	files, env           []string
	target, api, without string
}{
	"demo":     {files: []string{"compose.yaml"}, target: "demo"},
	"key":      {[]string{"compose.yaml", "compose.key.yaml"}, []string{"OPPER_API_KEY=k", "OPPER_PROJECT=shop"}, "exporter", "", "OPPER_API_KEY="},
	"key file": {[]string{"compose.yaml", "compose.key-file.yaml"}, []string{"OPPER_API_KEY_DIR=/keys", "OPPER_PROJECT=shop"}, "exporter", "/keys", "OPPER_API_KEY_DIR="},
	"projects": {[]string{"compose.yaml", "compose.projects.yaml"}, []string{"OPPER_CONFIG_DIR=/config"}, "exporter", "/config", "OPPER_CONFIG_DIR="},
}

func TestComposeFileIsValid(t *testing.T) {
	t.Parallel()
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := compose(t, v.env, v.files...)
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range p.Services {
				if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"}) {
					t.Errorf("%s may do more than it needs: %+v", name, s)
				}
				if s.Healthcheck == nil || len(s.Healthcheck.Test) == 0 {
					t.Errorf("%s has no health check", name)
				}
				if s.Build == nil && !regexp.MustCompile(`^[a-z/]+:v?\d+\.\d+\.\d+$`).MatchString(s.Image) {
					t.Errorf("%s has the image %s, which is not of one version", name, s.Image)
				}
				for _, port := range s.Ports {
					if port.HostIP != "127.0.0.1" {
						t.Errorf("%s is open to the network", name)
					}
				}
				for _, volume := range s.Volumes {
					if volume.Type != "bind" {
						continue
					}
					if !volume.ReadOnly {
						t.Errorf("%s can write to %s", name, volume.Source)
					}
					// Rules and dashboards have a test of their own.
					if _, err := os.Stat(volume.Source); err != nil && volume.Source != v.api {
						t.Error(err)
					}
				}
			}
			s := p.Services["exporter"]
			// Only the demo writes for Prometheus, as its user.
			writes := slices.ContainsFunc(s.Volumes, func(v volume) bool { return v.Source == "prometheus" })
			if isDemo := v.target == "demo"; writes != isDemo || (s.User != "") != isDemo {
				t.Errorf("the exporter runs as %q, with %v", s.User, s.Volumes)
			}
			if s.Build == nil || s.Build.Target != v.target {
				t.Fatalf("the exporter is built as %+v", s.Build)
			}
			if v.target == "demo" {
				return
			}
			if !slices.Contains(s.Command, "--opper.project=shop") && !slices.Contains(s.Command, "--config.file=/etc/opper/opper.yml") {
				t.Errorf("the project is not that of OPPER_PROJECT: %v", s.Command)
			}
			i := slices.IndexFunc(s.Command, func(arg string) bool { return strings.HasPrefix(arg, "--storage.path=") })
			if i < 0 {
				t.Fatalf("nothing is stored: %v", s.Command)
			}
			path := strings.TrimPrefix(s.Command[i], "--storage.path=")
			kept := false
			for _, volume := range s.Volumes {
				kept = kept || volume.Type == "volume" && volume.Target == path
			}
			if !kept {
				t.Errorf("no volume at %s", path)
			}
			if _, err := compose(t, []string{v.without}, v.files...); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(v.without, "=")) {
				t.Errorf("without a key the error is %v", err)
			}
		})
	}
}

// The images are of the versions that the tests run.
func TestComposeRunsTestedVersions(t *testing.T) {
	t.Parallel()
	p, err := compose(t, nil, "compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tools := read(t, top+"/deploy/test/tools/go.mod")
	for name, module := range map[string]string{"prometheus": `github.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`, "alertmanager": `github.com/prometheus/alertmanager v(\d+)\.(\d+)\.(\d+)`} {
		v := regexp.MustCompile(module).FindStringSubmatch(tools)
		if v == nil {
			t.Fatalf("no %s in the tools", name)
		}
		if want := "prom/" + name + ":v" + strings.Join(v[1:], "."); p.Services[name].Image != want {
			t.Errorf("the image is %s, want %s", p.Services[name].Image, want)
		}
	}
}

// Prometheus scrapes what compose calls its services, as in the example.
func TestComposePrometheusFindsItsTargets(t *testing.T) {
	t.Parallel()
	config := read(t, filepath.Join(containers, "prometheus.yml"))
	if out, err := promtest.Promtool(t, nil, "check", "config", filepath.Join(containers, "prometheus.yml")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	p, err := compose(t, nil, "compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`targets: \[([a-z]+):\d+\]`).FindAllStringSubmatch(config, -1) {
		if _, ok := p.Services[match[1]]; !ok && match[1] != "localhost" {
			t.Errorf("there is no service %s", match[1])
		}
	}
	// What the rules are read from, seen from the configuration, is the same directory or
	// file in the container.
	mounted := map[string]string{} // by what is mounted
	for _, volume := range p.Services["prometheus"].Volumes {
		if volume.Type == "bind" {
			mounted[filepath.Join(filepath.Base(filepath.Dir(volume.Source)), filepath.Base(volume.Source))] = volume.Target
		}
	}
	i := slices.IndexFunc(p.Services["prometheus"].Command, func(arg string) bool { return strings.HasPrefix(arg, "--config.file=") })
	if i < 0 {
		t.Fatal("no configuration")
	}
	at := filepath.Dir(strings.TrimPrefix(p.Services["prometheus"].Command[i], "--config.file="))
	patterns := regexp.MustCompile(`(?m)^  - (\.\./.*\.yml)$`).FindAllStringSubmatch(config, -1)
	if len(patterns) == 0 {
		t.Error("no rules")
	}
	for _, match := range patterns {
		inContainer := filepath.Join(at, match[1])
		directory, file := mounted[filepath.Join("deploy", filepath.Base(filepath.Dir(inContainer)))], mounted[strings.TrimPrefix(match[1], "../")]
		if filepath.Dir(inContainer) != directory && inContainer != file {
			t.Errorf("the rules %s of a configuration in %s are in neither %s nor %s", match[1], at, directory, file)
		}
		if files := glob(t, filepath.Join(containers, match[1])); len(files) == 0 {
			t.Error("no rules")
		}
	}
}

func TestComposeAlertmanagerConfigIsValid(t *testing.T) {
	t.Parallel()
	path := filepath.Join(containers, "alertmanager.yml")
	read(t, path) // a cached result ends with a change of it
	if err := run(top, nil, nil, "go", "tool", "-modfile=deploy/test/tools/alertmanager/go.mod", "amtool", "check-config", "deploy/container/alertmanager.yml"); err != nil {
		t.Error(err)
	}
}
