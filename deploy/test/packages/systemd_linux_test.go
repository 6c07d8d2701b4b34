package packages_test

import (
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

const (
	units     = top + "/deploy/systemd"
	installed = "/usr/local/bin/opper_exporter"
)

// systemd fails the test without its tools: they are in the package systemd.
func systemd(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUnitsAreValid(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	verify := []string{systemd(t, "systemd-analyze"), "verify", "--man=no"}
	to := t.TempDir()
	for _, name := range []string{"opper_exporter.service", "opper_exporter.socket", "opper_exporter@.service"} {
		text := read(t, filepath.Join(units, name))
		// What it starts must be there.
		write(t, filepath.Join(to, name), strings.ReplaceAll(text, installed, binary))
		verify = append(verify, filepath.Join(to, name))
	}
	dropIn := strings.ReplaceAll(read(t, filepath.Join(units, "projects.conf")), installed, binary)
	for _, content := range []string{"", dropIn} {
		write(t, filepath.Join(to, "opper_exporter.service.d/projects.conf"), content)
		out, err := exec.CommandContext(t.Context(), verify[0], verify[1:]...).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%v\n%s", err, out)
		}
	}
	// A mistake in the drop-in would be found.
	write(t, filepath.Join(to, "opper_exporter.service.d/projects.conf"), strings.Replace(dropIn, "ExecStart=\n", "", 1))
	if out, err := exec.CommandContext(t.Context(), verify[0], verify[1:]...).CombinedOutput(); err == nil && len(out) == 0 {
		t.Error("the drop-in is not read")
	}
}

// With the drop-in, one service runs the projects of a file, whose keys are where systemd
// puts the files of a directory of credentials.
func TestUnitRunsManyProjects(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	directory := t.TempDir()
	for _, name := range []string{"checkout", "support"} {
		write(t, filepath.Join(directory, "credentials", "keys_"+name), "the-key-of-"+name)
	}
	file := filepath.Join(directory, "opper.yml")
	write(t, file, strings.ReplaceAll(read(t, filepath.Join(units, "opper.yml")), "/run/credentials/opper_exporter.service", filepath.Join(directory, "credentials")))
	lines := execStart.FindAllStringSubmatch(read(t, filepath.Join(units, "projects.conf")), -1)
	if len(lines) != 2 || lines[0][1] != "" {
		t.Fatalf("the drop-in does not replace ExecStart: %q", lines)
	}
	command := strings.Fields(strings.NewReplacer(installed, binary, "/etc/opper_exporter/opper.yml", file, "%S", directory, "$OPTIONS", "--config.check").Replace(lines[1][1]))
	out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "checkout") || !strings.Contains(string(out), "valid: 2 projects") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is left is that it speaks to the network, and no root directory of its own.
func TestUnitIsHardened(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"opper_exporter.service", "opper_exporter@.service"} {
		out, err := exec.CommandContext(t.Context(), systemd(t, "systemd-analyze"), "security", "--no-pager", "--offline=true", "--threshold=15", filepath.Join(units, name)).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

var (
	execStart   = regexp.MustCompile(`(?m)^ExecStart=(.*)$`)
	listenLine  = regexp.MustCompile(`(?m)^ListenStream=(\d+)$`)
	preventLine = regexp.MustCompile(`(?m)^RestartPreventExitStatus=2$`)
	// ofInstance are the lines in which the template may differ.
	ofInstance = regexp.MustCompile(`(?m)^(Description|EnvironmentFile|LoadCredential|ExecStart|StateDirectory|Requires|After=opper_exporter|# (The socket|OPTIONS|PORT))\b.*\n`)
)

// The socket comes from systemd, and the command line from the unit.
func TestUnitTakesItsSocket(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	server := opper(t, httptest.NewServer)
	unit := read(t, filepath.Join(units, "opper_exporter.service"))
	line := execStart.FindStringSubmatch(unit)
	if line == nil {
		t.Fatal("no ExecStart")
	}
	directory := t.TempDir()
	write(t, filepath.Join(directory, "credentials/api-key"), key+"\n")
	command := strings.Fields(strings.NewReplacer(installed, binary, "%d", filepath.Join(directory, "credentials"), "%S", filepath.Join(directory, "state"),
		"$OPTIONS", "--opper.url="+server.URL).Replace(line[1]))

	address := freeAddress(t)
	p := exportertest.MustStart(t, exec.Command(systemd(t, "systemd-socket-activate"), append([]string{"--listen=" + address}, command...)...))
	p.AwaitLog(t, "Listening on")
	counted(t, p, address)
	p.AwaitLog(t, `msg="Listening on"`, "address="+address)
	if _, err := os.Stat(filepath.Join(directory, "state/opper_exporter/opper_exporter.db")); err != nil {
		t.Error(err)
	}
	p.Stop(t)

	if socket := listenLine.FindStringSubmatch(read(t, filepath.Join(units, "opper_exporter.socket"))); socket == nil || socket[1] != "16773" {
		t.Errorf("the socket listens at %v", socket)
	}
}

// Each instance of the template is a project, with a key, a state and a port of its
// own. All else is as in the unit.
func TestTemplateUnitSeparatesProjects(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	server := opper(t, httptest.NewServer)
	template := read(t, filepath.Join(units, "opper_exporter@.service"))
	if got, want := ofInstance.ReplaceAllString(template, ""), ofInstance.ReplaceAllString(read(t, filepath.Join(units, "opper_exporter.service")), ""); got != want {
		t.Errorf("the template differs from the unit:\n%s", firstDifference(want, got))
	}
	for line, want := range map[string]string{
		"EnvironmentFile": "/etc/default/opper_exporter-%i", "LoadCredential": "api-key:/etc/opper_exporter/%i/api-key", "StateDirectory": "opper_exporter-%i",
	} {
		if !strings.Contains(template, "\n"+line+"="+want+"\n") {
			t.Errorf("no %s=%s", line, want)
		}
	}

	directory := t.TempDir()
	// command is what systemd would start.
	command := func(instance, port string) *exec.Cmd {
		credentials := filepath.Join(directory, "credentials", instance)
		write(t, filepath.Join(credentials, "api-key"), key+"\n")
		line := strings.NewReplacer(installed, binary, "%i", instance, "%d", credentials, "%S", filepath.Join(directory, "state"),
			"${PORT}", port, "$OPTIONS", "--opper.url="+server.URL).Replace(execStart.FindStringSubmatch(template)[1])
		args := strings.Fields(line)
		return exec.Command(args[0], args[1:]...)
	}
	for _, instance := range []string{"checkout", "support"} {
		_, port, err := net.SplitHostPort(freeAddress(t))
		if err != nil {
			t.Fatal(err)
		}
		p := exportertest.MustStart(t, command(instance, port))
		p.AwaitListening(t)
		if metrics := counted(t, p, "127.0.0.1:"+port, instance); strings.Contains(metrics, `project="default"`) {
			t.Errorf("%s has another label project", instance)
		}
		if _, err := os.Stat(filepath.Join(directory, "state/opper_exporter-"+instance, "opper_exporter.db")); err != nil {
			t.Error(err)
		}
		defer p.Stop(t) // both run at once
	}
	cmd := command("none", "")
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "--web.listen-address: expected an address such as :16773") {
		t.Errorf("without a port: %v\n%s", err, out)
	}
}

// freeAddress returns a free address.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err = l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// A key that cannot be used ends the exporter with the status that the unit does
// not restart.
func TestUnitDoesNotRestartWhatCannotRun(t *testing.T) {
	t.Parallel()
	binary := exportertest.Binary(t)
	if !preventLine.MatchString(read(t, filepath.Join(units, "opper_exporter.service"))) {
		t.Error("the unit restarts after the exit status 2")
	}
	cmd := exec.CommandContext(t.Context(), binary, "--opper.api-key-file="+filepath.Join(t.TempDir(), "none"))
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("%v\n%s", err, out)
	}
}
