// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// debianFiles gathers what a Debian package puts on this machine, installing it
// first when this is root and it is missing.
func debianFiles(ctx context.Context, pkg Debian) ([]File, error) {
	switch pkg {
	case Busybox:
		return busyboxFiles(ctx)
	case Curl:
		return curlFiles(ctx)
	}
	return nil, fmt.Errorf("no files are known for the Debian package %q", pkg)
}

// ensure returns the path of a program, from pkg when it is not there yet.
func ensure(ctx context.Context, pkg Debian, usable func() (string, error)) (string, error) {
	p, err := usable()
	if err == nil {
		return p, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w; install it as root: apt-get install %s", err, pkg)
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", string(pkg)}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// An update may fail on one list of many; the install then tells.
		if out, e := cmd.CombinedOutput(); e != nil && args[0] == "install" {
			return "", fmt.Errorf("%w; apt-get install %s: %w\n%s", err, pkg, e, bytes.TrimSpace(out))
		}
	}
	return usable()
}

// staticBusybox finds a busybox that runs without libraries; the package
// "busybox" has one that does not.
func staticBusybox() (string, error) {
	p, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	f, err := elf.Open(p)
	if err != nil {
		return "", fmt.Errorf("%s: %w", p, err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static", p)
		}
	}
	return p, nil
}

func busyboxFiles(ctx context.Context) ([]File, error) {
	p, err := ensure(ctx, Busybox, staticBusybox)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(p)
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(ctx, p, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", p, err)
	}
	out := []File{{Path: "/bin/", Mode: 0o755}, {Path: "/bin/busybox", Mode: 0o755, Content: content}}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			out = append(out, File{Path: "/bin/" + applet, Mode: 0o777, Link: "busybox"})
		}
	}
	return out, nil
}

// needed matches a line of ldd that ends in a file: "libz.so.1 => /lib/... (0x...)"
// or the loader's own "/lib64/ld-linux-x86-64.so.2 (0x...)".
var needed = regexp.MustCompile(`(?m)(/\S+) \(0x[0-9a-f]+\)$`)

func curlFiles(ctx context.Context) ([]File, error) {
	p, err := ensure(ctx, Curl, func() (string, error) { return exec.LookPath("curl") })
	if err != nil {
		return nil, err
	}
	list, err := exec.CommandContext(ctx, "ldd", p).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", p, err)
	}
	sources := map[string]string{"/usr/bin/curl": p}
	for _, m := range needed.FindAllStringSubmatch(string(list), -1) {
		sources[m[1]] = m[1]
	}
	// The image has no network to speak of, but curl stops without the file.
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(bundle); err == nil {
		sources[bundle] = bundle
	}
	out := []File{
		// Without it glibc asks DNS before /etc/hosts.
		{Path: "/etc/nsswitch.conf", Mode: 0o644, Content: []byte("hosts: files dns\n")},
		{Path: "/home/", Mode: 0o755},
		{Path: "/home/curl_user/", Mode: 0o755, UID: 100, GID: 101},
	}
	var paths []string
	for to := range sources {
		paths = append(paths, to)
	}
	slices.Sort(paths)
	for _, to := range paths {
		content, err := os.ReadFile(sources[to])
		if err != nil {
			return nil, err
		}
		mode := int64(0o755)
		if filepath.Ext(to) == ".crt" {
			mode = 0o644
		}
		out = append(out, File{Path: to, Mode: mode, Content: content})
	}
	return out, nil
}
