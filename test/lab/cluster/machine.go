// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies are the roots of the machine's control groups: one for each
// controller in version 1, one for all in version 2.
func hierarchies() []string {
	var st unix.Statfs_t
	if unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		p := filepath.Join(cgroupRoot, e.Name())
		// Beside version 1 there may be a version 2 without controllers, which
		// container runtimes use as well.
		if e.IsDir() && unix.Statfs(p, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) {
			out = append(out, p)
		}
	}
	return out
}

// makeCgroups makes a group for each node's pods: kubelets that shared one
// would end each other's.
func (s *State) makeCgroups() error {
	for _, root := range hierarchies() {
		for _, n := range s.Nodes {
			dir := root
			for _, part := range strings.Split(s.cgroup()+"/"+n.Name, "/") {
				if root == cgroupRoot {
					if err := delegate(dir); err != nil {
						return err
					}
				}
				up := dir
				dir = filepath.Join(dir, part)
				if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("control group: %w", err)
				}
				if err := inherit(up, dir); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// inherit copies what a new group of the version 1 controller cpuset begins
// without, and cannot hold a process without.
func inherit(from, to string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || len(strings.TrimSpace(string(b))) > 0 {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(from, name)); err != nil || len(strings.TrimSpace(string(b))) == 0 {
			continue // version 2, where empty means the same as above
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// delegate lets the children of a version 2 group have its controllers.
func delegate(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	for _, c := range strings.Fields(string(b)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("control group %s: controller %s: %w", dir, c, err)
		}
	}
	return nil
}

// removeCgroups removes the lab's groups, which must hold no process.
func (s *State) removeCgroups() error {
	var errs []error
	for _, root := range hierarchies() {
		top := filepath.Join(root, s.cgroup())
		var dirs []string
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil // a group may go away while it is looked at
		})
		errs = append(errs, err)
		slices.Reverse(dirs)
		for _, d := range dirs {
			if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("control group %s: %w", d, err))
			}
		}
		// The one above goes with the last lab.
		_ = unix.Rmdir(filepath.Dir(top))
	}
	return errors.Join(errs...)
}

// changed are the machine's settings that kubelet changes at its start.
var changed = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

func (s *State) saveSysctls() {
	s.Sysctls = map[string]string{}
	for _, name := range changed {
		if b, err := os.ReadFile(filepath.Join("/proc/sys", name)); err == nil {
			s.Sysctls[name] = strings.TrimSpace(string(b))
		}
	}
}

func (s *State) restoreSysctls() error {
	var errs []error
	for name, value := range s.Sysctls {
		path := filepath.Join("/proc/sys", name)
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) != value {
			errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
		}
	}
	return errors.Join(errs...)
}
