package packages_test

import (
	"debug/elf"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"opper_exporter/deploy/test/exportertest"
)

// parsed is what the command dockerfile writes.
type parsed struct {
	Stages []struct {
		Name, From string
		Steps      []struct {
			Op                string
			Args              []string
			Dest, From, Chown string
			Values            map[string]string
		}
	}
	Context []string
}

// image is what one stage of the Dockerfile makes.
type image struct {
	files                        []layer
	workdir                      string
	user                         uint32
	env                          []string
	args, labels                 map[string]string
	entrypoint, cmd, healthcheck []string
	exposed                      []string
}

// layer is a file, or what is in a folder, for a folder of the image.
type layer struct {
	from, dest string
	owner      int
}

// buildArgs are what docker build is given.
var buildArgs = map[string]string{"VERSION": "1.2.3", "REVISION": "abc", "BRANCH": "main", "TARGETOS": runtime.GOOS, "TARGETARCH": runtime.GOARCH}

// images returns what the stages of the Dockerfile make.
func images(t testing.TB) map[string]*image {
	t.Helper()
	program(t, "dockerfile")
	all, err := follow()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// follow follows the Dockerfile, once. What its build stage runs is run here, with
// the files of the context only.
var follow = sync.OnceValues(func() (map[string]*image, error) {
	var file parsed
	if err := runJSON(&file, nil, filepath.Join(dir, "tool-dockerfile"), filepath.Join(top, "deploy/container/Dockerfile"), top); err != nil {
		return nil, err
	}
	built := map[string]*image{}
	for _, stage := range file.Stages {
		now := &image{workdir: "/", labels: map[string]string{}}
		root := filepath.Join(dir, "stage-"+stage.Name)
		if base, ok := built[stage.From]; ok {
			*now = *base
			now.files, now.labels = slices.Clone(base.files), maps.Clone(base.labels)
		}
		now.args = map[string]string{}
		for _, step := range stage.Steps {
			var err error
			switch step.Op {
			case "ARG":
				for name := range step.Values {
					now.args[name] = buildArgs[name]
				}
			case "ENV":
				for name, value := range step.Values {
					now.env = append(now.env, name+"="+value)
				}
			case "LABEL":
				for name, value := range step.Values {
					now.labels[name] = os.Expand(strings.Trim(value, `"`), func(name string) string { return now.args[name] })
				}
			case "WORKDIR":
				now.workdir = step.Args[0]
				err = os.MkdirAll(filepath.Join(root, now.workdir), 0o755)
			case "USER":
				now.user, err = userID(step.Args[0])
			case "EXPOSE":
				now.exposed = append(now.exposed, step.Args...)
			case "ENTRYPOINT":
				now.entrypoint, now.cmd = step.Args, nil
			case "CMD":
				now.cmd = step.Args
			case "HEALTHCHECK":
				now.healthcheck = step.Args
			case "RUN":
				env := slices.Clone(now.env)
				for name, value := range now.args {
					env = append(env, name+"="+value)
				}
				err = run(filepath.Join(root, now.workdir), nil, env, "sh", "-ec", step.Args[0])
			case "COPY":
				for _, source := range step.Args {
					if err == nil && step.From == "" {
						err = copyContext(file.Context, source, filepath.Join(root, now.workdir, step.Dest))
						continue
					}
					from := filepath.Join(dir, "stage-"+step.From, source)
					// What the build has not made is of the system that it runs on.
					if _, missing := os.Stat(from); errors.Is(missing, fs.ErrNotExist) {
						from = source
					}
					owner, _ := userID(step.Chown) // root if there is none
					now.files = append(now.files, layer{from, step.Dest, int(owner)})
				}
			default:
				err = fmt.Errorf("%s is not known here", step.Op)
			}
			if err != nil {
				return nil, fmt.Errorf("stage %s: %s: %w", stage.Name, step.Op, err)
			}
		}
		built[stage.Name] = now
	}
	return built, nil
})

func userID(user string) (uint32, error) {
	uid, _, _ := strings.Cut(user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	return uint32(n), err
}

// copyContext copies the files of the context that are source or below it.
func copyContext(files []string, source, dest string) error {
	source = filepath.Clean(source)
	for _, name := range files {
		if source != "." && name != source && !strings.HasPrefix(name, source+"/") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(top, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dest, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dest, name), content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// container is an image in a folder of its own.
type container struct {
	*image
	root string
}

// unpack makes a container: the image, and what every engine adds to it.
func (i *image) unpack(t testing.TB) container {
	t.Helper()
	c := container{i, t.TempDir()}
	for _, l := range i.files {
		to := filepath.Join(c.root, l.dest)
		info, err := os.Stat(l.from)
		if err == nil {
			err = os.MkdirAll(to, 0o755)
		}
		switch {
		case err != nil:
		case info.IsDir():
			if err = os.CopyFS(to, os.DirFS(l.from)); err == nil {
				err = own(to, l.owner)
			}
		default:
			file := filepath.Join(to, filepath.Base(l.from))
			write(t, file, read(t, l.from))
			if err = os.Chmod(file, info.Mode().Perm()); err == nil {
				err = own(file, l.owner)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(c.root, "dev/null"), "")
	if !isRoot {
		c.protect(t)
	}
	return c
}

// isRoot tells whether files can be given to others. Who is not root runs the
// container in a user namespace, in which all files are the user's own.
var isRoot = os.Getuid() == 0

func own(path string, owner int) error {
	if !isRoot {
		return nil
	}
	return os.Chown(path, owner, owner)
}

// protect takes the right to write from the folders that are not given to the user
// of the image.
func (c container) protect(t testing.TB) {
	t.Helper()
	given := map[string]bool{}
	for _, l := range c.files {
		given[filepath.Join(c.root, l.dest)] = l.owner != 0
	}
	chmod := func(mode fs.FileMode) error {
		return filepath.WalkDir(c.root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() && !given[path] {
				err = os.Chmod(path, mode)
			}
			return err
		})
	}
	if err := chmod(0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chmod(0o755); err != nil {
			t.Error(err)
		}
	})
}

// command is a program in the container: as the user of the image, who sees
// nothing but the container, and can write where the image lets that user only.
func (c container) command(env []string, args ...string) *exec.Cmd {
	attr := &syscall.SysProcAttr{Chroot: c.root}
	if isRoot {
		attr.Credential = &syscall.Credential{Uid: c.user, Gid: c.user}
	} else {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(c.user), HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(c.user), HostID: os.Getgid(), Size: 1}}
	}
	return &exec.Cmd{Path: args[0], Args: args, Dir: c.workdir, Env: append(slices.Clone(c.env), env...), SysProcAttr: attr}
}

// tree lists what is in the container, with the time when it changed.
func (c container) tree(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(c.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			found[strings.TrimPrefix(path, c.root)] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// trust adds the authority of a server to those that the image has.
func (c container) trust(t testing.TB, server *httptest.Server) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(c.root, "etc/ssl/certs/ca-certificates.crt"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

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

func TestImageOfTheDemo(t *testing.T) {
	t.Parallel()
	c := images(t)["demo"].unpack(t)
	p := exportertest.MustStart(t, c.command(nil, append(slices.Clone(c.entrypoint), anyPort, "--opper.listen-address=127.0.0.1:0", "--history=10m")...))
	counted(t, p, p.AwaitListening(t))
	p.Stop(t)
	if left, err := os.ReadDir(filepath.Join(c.root, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
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
	for name, healthy := range map[string]string{"default": "state restored", "nothing-kept": "persistence disabled", "everything": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := images(t)["exporter"].unpack(t)
			out, log, err := helmRun(t, "template", release, chart, "--values=testdata/values/"+name+".yaml", "--set=opper.url="+server.URL)
			if err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			command := slices.Concat(c.entrypoint, args(t, out), []string{anyPort})
			for _, mount := range []string{"mountPath: /run/secrets/opper\n", "path: api-key\n"} {
				if !strings.Contains(out, mount) {
					t.Errorf("no %s in the manifest", mount)
				}
			}
			c.mount(t, "run/secrets/opper/api-key", key)
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

// mount adds a file that the group of the image's user may read.
func (c container) mount(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(c.root, name)
	// Of what is read-only, mounting makes an exception.
	if err := os.Chmod(c.root, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, path, content)
	err := os.Chmod(path, 0o440)
	if err == nil && isRoot {
		err = os.Chown(path, 0, int(c.user))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Keys, state and tests are in the folder of the project, and not in the context.
func TestImageIsMadeFromSourcesOnly(t *testing.T) {
	t.Parallel()
	var file parsed
	if err := decoded(t, &file, nil, "dockerfile", filepath.Join(top, "deploy/container/Dockerfile"), top); err != nil {
		t.Fatal(err)
	}
	for _, name := range file.Context {
		if name != "go.mod" && name != "go.sum" && (filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go")) {
			t.Errorf("%s is sent to the engine", name)
		}
	}
	// The final stages are told by name, and the last is the default.
	if last := file.Stages[len(file.Stages)-1]; last.Name != "exporter" {
		t.Errorf("the default stage is %s", last.Name)
	}
}
