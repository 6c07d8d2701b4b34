package packages_test

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
)

// probe is the part of a probe that is looked at: all that a kubelet sends.
type probe struct {
	HTTPGet struct {
		Path    string `yaml:"path"`
		Port    string `yaml:"port"`
		Scheme  string `yaml:"scheme"`
		Headers []struct {
			Name  string `yaml:"name"`
			Value string `yaml:"value"`
		} `yaml:"httpHeaders"`
	} `yaml:"httpGet"`
}

// manifest is the part of a StatefulSet or a Secret that is looked at.
type manifest struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Texts map[string]string `yaml:"stringData"`
	Spec  struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Ports []struct {
						Name   string `yaml:"name"`
						Number int    `yaml:"containerPort"`
					} `yaml:"ports"`
					Startup   probe `yaml:"startupProbe"`
					Liveness  probe `yaml:"livenessProbe"`
					Readiness probe `yaml:"readinessProbe"`
				} `yaml:"containers"`
			} `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

// find returns the manifest of a kind whose name ends in a suffix.
func find(t testing.TB, text, kind, suffix string) (found manifest) {
	t.Helper()
	for part := range strings.SplitSeq(text, "\n---\n") {
		var m manifest
		if err := yaml.Unmarshal([]byte(part), &m); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		if m.Kind == kind && strings.HasSuffix(m.Metadata.Name, suffix) {
			return m
		}
	}
	t.Fatalf("no %s that ends in %s", kind, suffix)
	return found
}

// anyHealthPort replaces the port of the chart, which another test may have.
func anyHealthPort(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if strings.HasPrefix(arg, "--web.health-listen-address=") {
			args[i] = "--web.health-listen-address=127.0.0.1:0"
		}
	}
	return args
}

// mountWebConfig puts the web configuration of the chart, and the certificate that
// it names, where the chart mounts them.
func mountWebConfig(t testing.TB, c container, manifests string) {
	t.Helper()
	config, _ := exportertest.WebConfig(t, "")
	for name, file := range map[string]string{"tls.crt": "web.crt", "tls.key": "web.key", "ca.crt": "web.crt"} {
		c.mount(t, "etc/opper_exporter/"+name, read(t, filepath.Join(filepath.Dir(config), file)))
	}
	c.mount(t, "etc/opper_exporter/web.yml", find(t, manifests, "Secret", "-web").Texts["web.yml"])
}

// send sends the request of a kubelet, which verifies no certificate, and has neither
// a password nor a certificate of its own.
func (p probe) send(t testing.TB, addresses map[string]string) int {
	t.Helper()
	get := p.HTTPGet
	host, ok := addresses[get.Port]
	if !ok {
		t.Fatalf("no port %s", get.Port)
	}
	request, err := http.NewRequest(http.MethodGet, strings.ToLower(cmp.Or(get.Scheme, "HTTP"))+"://"+host+get.Path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", "kube-probe/1.27")
	request.Header.Set("Accept", "*/*")
	for _, h := range get.Headers {
		request.Header.Add(h.Name, h.Value)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(request)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	return resp.StatusCode
}

// Whatever the web configuration asks of clients, the probes of the chart pass, and
// the metrics stay behind it.
func TestProbesPassWhateverTheWebConfiguration(t *testing.T) {
	t.Parallel()
	server := opper(t, httptest.NewServer)
	const (
		withTLS  = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}"
		users    = "basic_auth_users: {prometheus: $2a$04$I371Cxx4bFFXcl9Aj5MBJek9DcFr9uwBkgA.x6XYp/OHBjBdmIFBO}"
		password = "open sesame" // of that user
	)
	for name, test := range map[string]struct {
		config        []string
		without, with int // what a scrape gets without the password, and with it; 0 is no connection
	}{
		"passwords":           {config: []string{users}, without: 401, with: 200},
		"TLS and passwords":   {config: []string{withTLS, users}, without: 401, with: 200},
		"client certificates": {config: []string{"tls_server_config: {cert_file: tls.crt, key_file: tls.key, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.crt}"}},
		"a limit on requests": {config: []string{"rate_limit: {interval: 1h, burst: 1}"}, without: 200, with: 429},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			values := filepath.Join(t.TempDir(), "values.yaml")
			write(t, values, "webConfig:\n  certificateSecret: certificate\n  content:\n    "+strings.Join(test.config, "\n    ")+"\n")
			set := "--set=opper.apiKey=k,opper.url=" + server.URL
			out, log, err := helmRun(t, "template", release, chart, "--values="+values, set)
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			c := images(t)["exporter"].unpack(t)
			c.mount(t, "run/secrets/opper/api-key", key)
			mountWebConfig(t, c, out)
			p := exportertest.MustStart(t, c.command(nil, slices.Concat(c.entrypoint, anyHealthPort(args(t, out)), []string{anyPort})...))
			listening := map[int]string{16773: p.AwaitListening(t), 16775: p.AwaitHealthAddress(t)}

			pod := find(t, out, "StatefulSet", "").Spec.Template.Spec.Containers[0]
			addresses := map[string]string{}
			for _, port := range pod.Ports {
				addresses[port.Name] = listening[port.Number]
				addresses[strconv.Itoa(port.Number)] = listening[port.Number]
			}
			promtest.Eventually(t, func() error {
				if code := pod.Readiness.send(t, addresses); code != http.StatusOK {
					return fmt.Errorf("readiness: %d", code)
				}
				return nil
			})
			for range 3 {
				for what, p := range map[string]probe{"startup": pod.Startup, "liveness": pod.Liveness, "readiness": pod.Readiness} {
					if code := p.send(t, addresses); code != http.StatusOK {
						t.Errorf("%s: %d", what, code)
					}
				}
			}

			scheme := "http"
			if strings.Contains(test.config[0], "tls_server_config") {
				scheme = "https"
			}
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			for _, c := range []struct {
				password string
				want     int
			}{{"", test.without}, {password, test.with}} {
				request, err := http.NewRequest(http.MethodGet, scheme+"://"+addresses["metrics"]+"/metrics", http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				if c.password != "" {
					request.SetBasicAuth("prometheus", c.password)
				}
				code := 0
				if resp, err := client.Do(request); err == nil {
					code = resp.StatusCode
					resp.Body.Close()
				}
				if code != c.want {
					t.Errorf("a scrape with the password %q gets %d, want %d", c.password, code, c.want)
				}
			}
			p.Stop(t)
		})
	}
}
