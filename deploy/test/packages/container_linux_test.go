package packages_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// container is an image in a directory of its own.
type container struct {
	*image
	root string
}

// unpack makes a container: the image, and what every engine adds to it.
func (i *image) unpack(t testing.TB) container {
	t.Helper()
	image := *i // a container may run as another user
	c := container{&image, t.TempDir()}
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

// isRoot tells whether files can be given to others. Other users run the
// container in a user namespace, in which all files are the user's own.
var isRoot = os.Getuid() == 0

func own(path string, owner int) error {
	if !isRoot {
		return nil
	}
	return os.Chown(path, owner, owner)
}

// protect takes the right to write from the directories that are not given to the user
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

// command is a program in the container: as the user of the image, which sees
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
