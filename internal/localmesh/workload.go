// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
	"github.com/lateen-mesh/lateen/internal/config"
)

// workload is what one LocalWorkload comes to: a sidecar with its application,
// or a gateway. It is a value: two that are equal need no restart.
type workload struct {
	Namespace, Name string
	Entry           string
	Address         netip.Addr
	Labels          map[string]string
	Annotations     map[string]string
	ServiceAccount  string
	Network         string
	Locality        string
	Ports           []port // what the sidecar opens for others, by number

	Command []string // empty: a gateway
	Env     map[string]string
	Dir     string
	Probe   lateen.Probe
}

// port is one service port and where the application takes what comes in on it.
type port struct {
	Number  uint16
	Private netip.AddrPort
}

func (w workload) gateway() bool  { return len(w.Command) == 0 }
func (w workload) key() string    { return w.Namespace + "/" + w.Name }
func (w workload) nodeIP() string { return w.Address.String() }

// display is the workload's name as a user reads it.
func (w workload) display() string {
	if w.Namespace == config.DefaultNamespace {
		return w.Name
	}
	return w.Name + "." + w.Namespace
}

// problem is an object that cannot be run, and why.
type problem struct{ Object, Message string }

// The whole of 127/8 is the machine itself; the mesh uses it and nothing else,
// so that nothing is opened to the network.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// workloadsOf works out what is to run from the objects there are.
func workloadsOf(objects []*config.Object) ([]workload, []problem) {
	entries := map[config.Key]*config.Object{}
	var locals []*config.Object
	var inbound inboundObjects
	for _, o := range objects {
		switch o.Kind {
		case config.WorkloadEntry:
			entries[o.Key] = o
		case config.LocalWorkload:
			locals = append(locals, o)
		case config.Sidecar:
			inbound.sidecars = append(inbound.sidecars, o)
		case config.ServiceEntry:
			inbound.services = append(inbound.services, o)
		}
	}
	slices.SortFunc(locals, func(a, b *config.Object) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(inbound.sidecars, config.Older)
	var out []workload
	var problems []problem
	taken := map[netip.Addr]string{}
	for _, o := range locals {
		spec := o.Spec.(*lateen.LocalWorkload)
		entry := entries[config.Key{Kind: config.WorkloadEntry, Namespace: o.Namespace, Name: spec.Entry}]
		w, err := workloadOf(o, spec, entry, inbound)
		if err == nil {
			if other, ok := taken[w.Address]; ok {
				err = fmt.Errorf("address %s is that of %s too: give each workload its own", w.Address, other)
			}
		}
		if err != nil {
			problems = append(problems, problem{o.Key.String(), err.Error()})
			continue
		}
		taken[w.Address] = o.Key.String()
		out = append(out, w)
	}
	return out, problems
}

func workloadOf(o *config.Object, spec *lateen.LocalWorkload, entry *config.Object, inbound inboundObjects) (workload, error) {
	if entry == nil {
		return workload{}, fmt.Errorf("spec.entry: there is no WorkloadEntry %q in namespace %s: add it", spec.Entry, o.Namespace)
	}
	e := entry.Spec.(*networking.WorkloadEntry)
	addr, err := netip.ParseAddr(e.Address)
	if err != nil || !loopback.Contains(addr) || addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return workload{}, fmt.Errorf("WorkloadEntry %s has address %q: a workload on this machine needs one of its own in 127.0.0.0/8, such as 127.0.1.9", entry.Name, e.Address)
	}
	w := workload{
		Namespace: o.Namespace, Name: o.Name, Entry: entry.Name, Address: addr,
		Labels: maps.Clone(entry.Labels), Annotations: entry.Annotations,
		ServiceAccount: cmp.Or(e.ServiceAccount, "default"), Network: e.Network, Locality: e.Locality,
		Command: spec.Command, Env: spec.Env, Dir: workDir(o, spec),
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	maps.Copy(w.Labels, e.Labels) // what the mesh matches on
	if w.gateway() {
		return w, nil
	}
	if spec.Ready != nil {
		w.Probe = *spec.Ready
	}
	w.Ports, err = inbound.privatePorts(o.Namespace, w.Labels)
	if err != nil {
		return workload{}, err
	}
	if w.Probe.Port != 0 && !slices.ContainsFunc(w.Ports, func(p port) bool { return uint32(p.Number) == w.Probe.Port }) {
		return workload{}, fmt.Errorf("spec.ready.port: %d is no port of the workload", w.Probe.Port)
	}
	return w, nil
}

func workDir(o *config.Object, spec *lateen.LocalWorkload) string {
	if filepath.IsAbs(spec.Dir) {
		return spec.Dir
	}
	return filepath.Join(filepath.Dir(o.Source.File), spec.Dir)
}

// inboundObjects are what decides about the inbound side of workloads.
type inboundObjects struct{ sidecars, services []*config.Object }

// privatePorts reads from the Sidecar that applies to the labels where the
// application is to listen. As in Istio, the oldest Sidecar whose selector
// matches is the one. A workload that is part of no service needs none.
func (in inboundObjects) privatePorts(namespace string, labels map[string]string) ([]port, error) {
	for _, o := range in.sidecars {
		s := o.Spec.(*networking.Sidecar)
		if o.Namespace != namespace || s.WorkloadSelector == nil || !selects(s.WorkloadSelector.Labels, labels) {
			continue
		}
		var out []port
		for i, in := range s.Ingress {
			private, err := netip.ParseAddrPort(in.DefaultEndpoint)
			if err != nil || !loopback.Contains(private.Addr()) {
				return nil, fmt.Errorf("%s: spec.ingress[%d].defaultEndpoint is %q: name the application's port as 127.0.0.1:PORT", o.Key, i, in.DefaultEndpoint)
			}
			out = append(out, port{uint16(in.GetPort().GetNumber()), private})
		}
		slices.SortFunc(out, func(a, b port) int { return cmp.Compare(a.Number, b.Number) })
		return out, nil
	}
	served := slices.ContainsFunc(in.services, func(o *config.Object) bool {
		s := o.Spec.(*networking.ServiceEntry)
		return o.Namespace == namespace && s.WorkloadSelector != nil && selects(s.WorkloadSelector.Labels, labels)
	})
	if !served {
		return nil, nil
	}
	return nil, fmt.Errorf("no Sidecar in namespace %s selects its labels: add one whose ingress leads from the workload's address to the application's port on 127.0.0.1", namespace)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// ready returns the probe's address, path and patience.
func (w workload) ready() (at netip.AddrPort, path string, wait time.Duration) {
	for _, p := range w.Ports {
		if w.Probe.Port == 0 || uint32(p.Number) == w.Probe.Port {
			at = p.Private
			break
		}
	}
	wait = time.Duration(cmp.Or(w.Probe.TimeoutSeconds, 60)) * time.Second
	return at, w.Probe.Path, wait
}

// proxyEnv are the names that lead a program's requests elsewhere. Only the
// application gets them, and only ours.
var proxyEnv = []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"}

// withoutProxies drops the user's own proxy settings from an environment:
// nothing in the mesh may leave through them unseen.
func withoutProxies(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return slices.Contains(proxyEnv, strings.ToLower(k))
	})
}

// appEnv is the environment of the application.
func (w workload) appEnv(base []string, proxyPort uint16) []string {
	env := withoutProxies(base)
	via := "http://" + netip.AddrPortFrom(w.Address, proxyPort).String()
	env = append(env, "HTTP_PROXY="+via, "http_proxy="+via, "HOSTNAME="+w.Name)
	for i, p := range w.Ports {
		at, number := p.Private.String(), strconv.Itoa(int(p.Private.Port()))
		if i == 0 {
			env = append(env, "LISTEN_ADDRESS="+at, "PORT="+number)
		}
		env = append(env, fmt.Sprintf("PORT_%d=%s", p.Number, number))
	}
	for _, k := range slices.Sorted(maps.Keys(w.Env)) {
		env = append(env, k+"="+w.Env[k])
	}
	return env
}
