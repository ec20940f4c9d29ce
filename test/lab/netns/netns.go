// SPDX-License-Identifier: Apache-2.0

// Package netns makes network namespaces, and runs functions, programs and
// connections in them. A namespace belongs to a thread in Linux, so each
// function here keeps its goroutine on one thread for as long as it is inside.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dir is where iproute2 keeps named namespaces, so that `ip netns` shows ours.
const Dir = "/run/netns"

// Path of the namespace name.
func Path(name string) string { return filepath.Join(Dir, name) }

// Create makes the namespace name and holds it by a bind mount. It is an error
// when there is one of that name.
func Create(name string) error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	path := Path(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("network namespace %s: %w", name, err), os.Remove(path))
	}
	return nil
}

// Remove takes the namespace's name away; it ends with its last process. It is
// no error when there is none.
func Remove(name string) error {
	path := Path(name)
	for {
		// A mount may lie on another after an interrupted Create.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			break
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	return nil
}

// Exists tells whether the namespace name is there.
func Exists(name string) bool {
	var fs unix.Statfs_t
	const nsfs = 0x6e736673 // NSFS_MAGIC of linux/magic.h
	return unix.Statfs(Path(name), &fs) == nil && fs.Type == nsfs
}

// Enter puts the calling thread, which must be locked to its goroutine, into
// the namespace at path for good.
func Enter(path string) error { return join(path, unix.CLONE_NEWNET) }

// EnterMount puts the calling thread, which must be locked to its goroutine,
// into the mount namespace at path for good.
func EnterMount(path string) error {
	// Threads share one root and working directory; the kernel refuses to give
	// one of them another mount namespace until it has its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return join(path, unix.CLONE_NEWNS)
}

func join(path string, kind int) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), kind); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

// Do runs fn on a thread inside the network namespace at path.
func Do(path string, fn func() error) error {
	return onThread(func() error {
		if err := Enter(path); err != nil {
			return err
		}
		return fn()
	})
}

// Start starts cmd inside the network namespace at net and, unless it is
// empty, the mount namespace at mnt.
func Start(cmd *exec.Cmd, net, mnt string) error {
	return Do(net, func() error {
		if mnt != "" {
			if err := EnterMount(mnt); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
}

// onThread runs fn on a thread that is thrown away afterwards.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the runtime ends the thread with the goroutine, and no
		// other code ever sees its namespaces.
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// Dial returns a function that connects from inside the namespace at path. Its
// addresses must be numeric.
func Dial(path string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var c net.Conn
		err := Do(path, func() (err error) {
			// The socket is made on this thread, as a numeric address needs no
			// race of several attempts; it stays in its namespace.
			c, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
}
