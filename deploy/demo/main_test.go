package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"opper_exporter/deploy/test/exportertest"
	"opper_exporter/deploy/test/promtest"
	"opper_exporter/opper/oppertest"
)

// asDemo makes the test binary run as the demo.
const asDemo = "TEST_AS_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		main()
	}
	exportertest.Main(m)
}

// command returns the demo with free ports and little history.
func command(t *testing.T, args ...string) (*exec.Cmd, *promtest.Output) {
	t.Helper()
	defaults := []string{
		"--opper.listen-address=127.0.0.1:0", "--web.listen-address=" + exportertest.FreeAddress(t), "--history=10m", "--exporter=" + exportertest.Binary(t),
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], append(defaults, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), asDemo+"=1", "TMPDIR="+t.TempDir())
	out := new(promtest.Output)
	cmd.Stdout, cmd.Stderr = out, out
	// An exporter that outlives the demo would hold its outputs open.
	cmd.WaitDelay = time.Minute
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the demo printed:\n%s", out)
		}
	})
	return cmd, out
}

var (
	opperLine    = regexp.MustCompile(`curl -H 'Authorization: Bearer demo' 'http://(127\.0\.0\.1:\d+)/v2/traces\?limit=3'`)
	exporterLine = regexp.MustCompile(`msg="Listening on" address=(127\.0\.0\.1:\d+)`)
	countedLine  = regexp.MustCompile(`(?m)^opper_traces_total\{.*\} (\S+)$`)
)

func find(out *promtest.Output, line *regexp.Regexp) (string, error) {
	match := line.FindStringSubmatch(out.String())
	if match == nil {
		return "", fmt.Errorf("no line like %s", line)
	}
	return match[1], nil
}

func get(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

// counted scrapes the number of traces that have been counted.
func counted(url string) (total float64, metrics string, err error) {
	metrics, err = get(url)
	if err != nil {
		return 0, "", err
	}
	for _, match := range countedLine.FindAllStringSubmatch(metrics, -1) {
		n, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			return 0, "", err
		}
		total += n
	}
	return total, metrics, nil
}

func TestDemo(t *testing.T) {
	demo, out := command(t, "--", "--collector.interval=1s", "--collector.settle-delay=0s")
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	var opper, exporter string
	promtest.Eventually(t, func() (err error) {
		if opper, err = find(out, opperLine); err != nil {
			return err
		}
		exporter, err = find(out, exporterLine)
		return err
	})
	// What is printed can be tried at once.
	checkUsage(t, opper)
	first, metrics, err := counted("http://" + exporter + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(metrics, `opper_up{project="demo"} 1`+"\n") {
		t.Errorf("opper_up is not 1:\n%s", metrics)
	}
	if first < 100 {
		t.Errorf("the history gave only %v traces", first)
	}
	promtest.Eventually(t, func() error {
		now, _, err := counted("http://" + exporter + "/metrics")
		if err == nil && now <= first {
			err = fmt.Errorf("%v traces counted, %v before", now, first)
		}
		return err
	})

	if err := demo.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("interrupted, the demo ended with %v", err)
	}
	for _, address := range []string{opper, exporter} {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			t.Errorf("%s still listens", address)
		}
	}
	if !strings.Contains(out.String(), more) {
		t.Error("no word of alerts and dashboards")
	}
	if strings.Contains(metrics+out.String(), oppertest.Secret) {
		t.Error("private content has leaked")
	}
	tmp := strings.TrimPrefix(demo.Env[len(demo.Env)-1], "TMPDIR=")
	if left, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDemoEndsWithTheExporter(t *testing.T) {
	demo, out := command(t, "--", "--collector.settle-delay=-1s")
	_ = demo.Run()
	if code := demo.ProcessState.ExitCode(); code != 2 {
		t.Errorf("the exporter refused a flag, and the demo ended with %d", code)
	}
	if !strings.Contains(out.String(), "--collector.settle-delay") {
		t.Error("no word of the flag")
	}
}

// The Prometheus that it starts scrapes the exporter and has the alerts.
func TestDemoWithPrometheus(t *testing.T) {
	address := exportertest.FreeAddress(t)
	demo, out := command(t, "--prometheus", "--prometheus.listen-address="+address)
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	promtest.Eventually(t, func() error {
		if !strings.Contains(out.String(), "http://"+address+"/alerts") {
			return errors.New("no line about alerts")
		}
		body, err := get("http://" + address + "/api/v1/query?query=opper_up")
		if err == nil && !strings.Contains(body, `"project":"demo"`) {
			err = fmt.Errorf("opper_up is %s", body)
		}
		return err
	})
	if strings.Contains(out.String(), more) {
		t.Error("the demo says how to get what it shows")
	}
	rules, err := get("http://" + address + "/api/v1/rules?type=alert")
	if err != nil || !strings.Contains(rules, `"name":"OpperSuccessRateLow"`) {
		t.Errorf("alerts: %v, %.300s", err, rules)
	}
	if err := demo.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("interrupted, the demo ended with %v", err)
	}
	if _, err := get("http://" + address + "/-/healthy"); err == nil {
		t.Error("Prometheus still runs")
	}
}

func TestDemoWithoutExporter(t *testing.T) {
	demo, out := command(t)
	demo.Args = []string{demo.Args[0], "--opper.listen-address=127.0.0.1:0", "--exporter=missing"}
	_ = demo.Run()
	if code := demo.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "demo: error: --exporter: ") {
		t.Errorf("ended with %d", code)
	}
}

func TestDemoIsTerminated(t *testing.T) {
	demo, out := command(t)
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	promtest.Eventually(t, func() error {
		_, err := find(out, opperLine)
		return err
	})
	if err := demo.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("terminated, the demo ended with %v", err)
	}
}
