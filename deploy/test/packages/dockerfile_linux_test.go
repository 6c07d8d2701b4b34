package packages_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
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

// layer is a file, or what is in a directory, for a directory of the image.
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
