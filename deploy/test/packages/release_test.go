package packages_test

import (
	"debug/pe"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"opper_exporter/deploy/test/promtest"
)

// releaseBuild is a program of a release, which is built in its directory.
type releaseBuild struct {
	Dir, Binary, Main   string
	Goos, Goarch        []string
	Env, Flags, Ldflags []string
}

// releases is the part of the configuration of GoReleaser that is looked at.
type releases struct {
	Builds   []releaseBuild
	Archives []struct {
		Files []struct{ Source string }
	}
}

func readReleases(t testing.TB) releases {
	t.Helper()
	var r releases
	path := filepath.Join(top, ".goreleaser.yaml")
	read(t, path) // a cached result ends with a change of it
	if err := decoded(t, &r, nil, "goreleaser", path); err != nil {
		t.Fatal(err)
	}
	if len(r.Builds) != 2 || len(r.Archives) != 1 {
		t.Fatalf("%d builds, %d archives", len(r.Builds), len(r.Archives))
	}
	return r
}

func TestReleaseHasItsFiles(t *testing.T) {
	t.Parallel()
	r := readReleases(t)
	for _, f := range r.Archives[0].Files {
		glob(t, filepath.Join(top, f.Source))
	}
	for _, platform := range []string{"linux amd64", "linux arm64", "darwin arm64", "windows amd64"} {
		goos, goarch, _ := strings.Cut(platform, " ")
		for _, b := range r.Builds {
			if !slices.Contains(b.Goos, goos) || !slices.Contains(b.Goarch, goarch) {
				t.Errorf("no %s for %s", b.Binary, platform)
			}
		}
	}
}

// Windows differs most from the others, in us and in what we depend on.
func TestReleaseIsBuilt(t *testing.T) {
	t.Parallel()
	promtest.DependOnSources(t)
	for _, b := range readReleases(t).Builds {
		t.Run(b.Binary, func(t *testing.T) { b.test(t) })
	}
}

func (b *releaseBuild) test(t *testing.T) {
	t.Helper()
	expand := strings.NewReplacer("{{ .Version }}", "1.2.3", "{{ .FullCommit }}", "abc", "{{ .Branch }}", "main")
	ldflags := expand.Replace(strings.Join(b.Ldflags, " "))
	if strings.Contains(ldflags, "{{") {
		t.Fatalf("a template that is not known here: %s", ldflags)
	}
	// The binary of make build tells the same.
	makefile := read(t, filepath.Join(top, "Makefile"))
	for _, flag := range regexp.MustCompile(`-X \S+\.(\w+)=`).FindAllStringSubmatch(ldflags, -1) {
		if !strings.Contains(makefile, "-X $(BUILDINFO)."+flag[1]+"=") {
			t.Errorf("make build does not set %s", flag[1])
		}
	}
	build := func(goos, goarch string) string {
		path := filepath.Join(t.TempDir(), b.Binary)
		command := slices.Concat([]string{"go", "build", "-buildvcs=false"}, b.Flags, []string{"-ldflags", ldflags, "-o", path, b.Main})
		if err := run(filepath.Join(top, b.Dir), nil, slices.Concat(b.Env, []string{"GOOS=" + goos, "GOARCH=" + goarch}), command...); err != nil {
			t.Fatal(err)
		}
		return path
	}

	out, err := exec.CommandContext(t.Context(), build(runtime.GOOS, runtime.GOARCH), "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "version 1.2.3 (branch: main, revision: abc)") {
		t.Errorf("%v\n%s", err, out)
	}
	windows, err := pe.Open(build("windows", "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if windows.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || windows.Close() != nil {
		t.Errorf("for windows there is a binary of %v", windows.Machine)
	}
}
