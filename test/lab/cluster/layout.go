// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes on one Linux machine: every process of
// it inside network namespaces without a way out, all that it writes below one
// directory, every process known by its id.
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// The lab's addresses. They are in namespaces of their own, so that every lab
// has the same ones.
var (
	// Nodes holds the nodes' addresses, .1 for the first.
	Nodes = netip.MustParsePrefix("172.30.0.0/24")
	// LoadBalancers are given to Services of that type.
	LoadBalancers = netip.MustParsePrefix("172.30.1.0/24")
	// Services holds cluster addresses.
	Services = netip.MustParsePrefix("10.96.0.0/16")
	// Pods is the range of all nodes' pods, a /24 each.
	Pods = netip.MustParsePrefix("10.244.0.0/16")
	// DNS is the cluster address of the name server.
	DNS = netip.MustParseAddr("10.96.0.10")
)

// Domain is the cluster's.
const Domain = "cluster.local"

// MaxNodes keeps the lab to what one machine can carry.
const MaxNodes = 4

// A Node is one kubelet with its own container runtime and network namespace.
type Node struct {
	Name    string       `json:"name"`
	Address netip.Addr   `json:"address"`
	Pods    netip.Prefix `json:"pods"`
	NetNS   string       `json:"netns"`
	Region  string       `json:"region"`
	Zone    string       `json:"zone"`
}

// Component is one process of the lab.
type Component struct {
	Name string   `json:"name"` // kubelet-node1, etcd, ...
	Node string   `json:"node"` // whose namespaces it is in
	Args []string `json:"args"`
	PID  int      `json:"pid"` // 0: stopped
	// Started is field 22 of /proc/PID/stat: together with PID it names one
	// process, even after the number was given to another.
	Started uint64 `json:"started"`
}

// State is what is known of a lab, on disk before it is true of the machine.
type State struct {
	Name       string      `json:"name"`
	Dir        string      `json:"dir"`
	Kubeconfig string      `json:"kubeconfig"`
	Nodes      []Node      `json:"nodes"`
	Components []Component `json:"components"`
	// Ready is set once everything answered.
	Ready bool `json:"ready"`
	// Programs are the directories of what is run, for PATH.
	Programs []string `json:"programs"`
	CNI      string   `json:"cni"`
	// MadeDirs were made outside Dir as places to mount on, in order.
	MadeDirs []string `json:"madeDirs,omitempty"`
	// Sysctls are the machine's values that kubelet changes.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$`)

// DefaultDir is where the lab name keeps its state: below $XDG_RUNTIME_DIR, or
// the directory for temporary files without one.
func DefaultDir(name string) string {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" {
		base = filepath.Join(os.TempDir(), "lateen-lab-"+strconv.Itoa(os.Getuid()))
	} else {
		base = filepath.Join(base, "lateen-lab")
	}
	return filepath.Join(base, name)
}

// plan lays out a lab of n nodes.
func plan(name, dir string, n int) (*State, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: want at most 15 lower-case letters, digits and dashes", name)
	}
	if n < 1 || n > MaxNodes {
		return nil, fmt.Errorf("%d nodes: want 1 to %d", n, MaxNodes)
	}
	s := &State{Name: name, Dir: dir, Kubeconfig: filepath.Join(dir, "admin.conf")}
	address := Nodes.Addr()
	for i := range n {
		address = address.Next()
		pods := Pods.Addr().As4()
		pods[2] = byte(i)
		node := Node{
			Name: "node" + strconv.Itoa(i+1), Address: address,
			Pods:  netip.PrefixFrom(netip.AddrFrom4(pods), 24),
			NetNS: name, Region: "region1", Zone: "zone" + strconv.Itoa(i+1),
		}
		if i > 0 {
			node.NetNS += "-" + node.Name
		}
		s.Nodes = append(s.Nodes, node)
	}
	return s, nil
}

func (s *State) path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}
func (s *State) file() string               { return s.path("state.json") }
func (s *State) LogFile(name string) string { return s.path("logs", name+".log") }
func (s *State) nodeDir(n Node, elem ...string) string {
	return s.path(append([]string{n.Name}, elem...)...)
}

// cgroup of the lab's pods, relative to each hierarchy's root.
func (s *State) cgroup() string { return "lateen-lab/" + s.Name }

func (s *State) save() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := s.file() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("save the lab's state: %w", err)
	}
	return os.Rename(tmp, s.file())
}

// ErrNone is returned for a lab that is not up.
var ErrNone = errors.New("no such lab is up")

func load(dir string) (*State, error) {
	b, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w (nothing in %s): start it with lab up", ErrNone, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("the lab's state: %w", err)
	}
	s := new(State)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("the lab's state in %s: %w", dir, err)
	}
	return s, nil
}

func (s *State) node(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

func (s *State) component(name string) *Component {
	for i := range s.Components {
		if s.Components[i].Name == name {
			return &s.Components[i]
		}
	}
	return nil
}
