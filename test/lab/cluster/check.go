// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/lateen-mesh/lateen/test/lab/build"
	"github.com/lateen-mesh/lateen/test/lab/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// packages are the programs taken from Debian: the two that are not Go, or not
// simply so. kube-proxy runs nft to write its rules.
var packages = []struct{ program, pkg string }{{"runc", "runc"}, {"nft", "nftables"}}

func find(program string) (string, error) {
	return lookPath(program, []string{"PATH=" + os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin"})
}

// ensurePackages installs what is missing.
func ensurePackages(ctx context.Context, log io.Writer) error {
	for _, p := range packages {
		if _, err := find(p.program); err == nil {
			continue
		}
		fmt.Fprintf(log, "installing the Debian package %s\n", p.pkg)
		for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", p.pkg}} {
			cmd := exec.CommandContext(ctx, "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			// An update may fail on one list of many; the install then tells.
			if out, err := cmd.CombinedOutput(); err != nil && args[0] == "install" {
				return fmt.Errorf("the lab needs %s (Debian package %s): apt-get install: %w\n%s", p.program, p.pkg, err, bytes.TrimSpace(out))
			}
		}
	}
	return nil
}

// Finding is the result of one check of the machine.
type Finding struct {
	Name string
	Err  error  // nil: fine
	Hint string // what to do about Err
}

// least the machine must have.
const (
	leastMemory = 2 << 30 // available, bytes
	leastDisk   = 5 << 30 // free, bytes: builds and images
)

// Check tells whether this machine can run a lab.
func Check() []Finding {
	out := []Finding{{"root", nil, "run it as root: sudo -E bin/lab check"}}
	if os.Geteuid() != 0 {
		out[0].Err = errors.New("not root")
		return out // the other checks would all fail for this reason
	}
	network := Finding{Name: "network namespaces, bridge, veth", Hint: "the lab needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and a kernel with bridge and veth"}
	network.Err = checkNetwork()
	groups := Finding{Name: "control groups", Hint: "mount cgroup v1 or v2 writable below " + cgroupRoot}
	groups.Err = checkCgroups()
	overlay := Finding{Name: "overlayfs", Hint: "load the kernel module overlay"}
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "\toverlay\n") {
		overlay.Err = errors.New("not among /proc/filesystems")
	}
	out = append(out, network, groups, overlay)
	for _, p := range packages {
		f := Finding{Name: p.program, Hint: "apt-get install " + p.pkg}
		if _, err := find(p.program); err != nil {
			if _, apt := find("apt-get"); apt != nil {
				f.Err = err
			}
		}
		out = append(out, f)
	}
	goTool := Finding{Name: "go", Hint: "install Go and put it into PATH: the lab builds Kubernetes"}
	_, goTool.Err = exec.LookPath("go")
	return append(out, goTool, checkMemory(), checkDisk())
}

func checkNetwork() error {
	name := "lab-check-" + strconv.Itoa(os.Getpid())
	if err := netns.Create(name); err != nil {
		return err
	}
	err := netns.Do(netns.Path(name), func() error {
		bridge, veth := netlink.NewLinkAttrs(), netlink.NewLinkAttrs()
		bridge.Name, veth.Name = "b", "v"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: bridge}); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: veth, PeerName: "p"}); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return err
		}
		nft, err := find("nft")
		if err != nil {
			return nil // has a check of its own
		}
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader("table ip t { chain c { type nat hook output priority 0; ip daddr 10.9.9.9 dnat to 127.0.0.1; }; }")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nftables: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
	return errors.Join(err, netns.Remove(name))
}

func checkCgroups() error {
	roots := hierarchies()
	if len(roots) == 0 {
		return fmt.Errorf("none below %s", cgroupRoot)
	}
	for _, root := range roots {
		dir := root + "/lab-check-" + strconv.Itoa(os.Getpid())
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Rmdir(dir); err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return nil
}

func checkMemory() Finding {
	f := Finding{Name: "memory", Hint: "free some memory: a lab with one node takes about 1 GiB"}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		f.Err = err
		return f
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemAvailable:" {
			continue
		}
		if kib, err := strconv.ParseUint(fields[1], 10, 64); err == nil && kib<<10 < leastMemory {
			f.Err = fmt.Errorf("%d MiB available, want %d", kib>>10, leastMemory>>20)
		}
	}
	return f
}

func checkDisk() Finding {
	f := Finding{Name: "disk", Hint: "free some space, or set XDG_CACHE_HOME to where there is some"}
	dir, err := build.DefaultDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	var st unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &st)
	}
	if free := st.Bavail * uint64(st.Bsize); err == nil && free < leastDisk {
		err = fmt.Errorf("%d MiB free in %s, want %d", free>>20, dir, leastDisk>>20)
	}
	f.Err = err
	return f
}
