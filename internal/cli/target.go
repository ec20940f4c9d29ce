// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/localmesh"
)

// target is the mesh a command is for: one on this machine, or in a cluster.
type target struct {
	a     *app
	local localmesh.Registration
	kube  *kubeAccess // nil: the local one
	// planes are the replicas of the control plane; in a cluster they are
	// looked up when first asked for, because objects do not go through them.
	planes []replica
}

// replica is one replica of the control plane.
type replica struct {
	name string
	*api.Client
}

// target finds the mesh: --mesh, else --kubeconfig or --context, else the one
// that runs on this machine, else the current context.
func (a *app) target() (*target, error) {
	if a.mesh == "" && a.wantsKube() {
		return a.kubeTarget()
	}
	all, err := localmesh.Running()
	if err != nil {
		return nil, err
	}
	var names []string
	found := localmesh.Registration{}
	for _, r := range all {
		names = append(names, r.Name)
		if r.Name == a.mesh || a.mesh == "" {
			found = r
		}
	}
	switch {
	case found.Name == "" && a.mesh != "" && len(all) > 0:
		return nil, exit(ExitNoMesh, "no mesh named %q is running: there is %s", a.mesh, strings.Join(names, ", "))
	case found.Name == "" && a.mesh == "" && a.hasKube():
		return a.kubeTarget()
	case found.Name == "":
		return nil, exit(ExitNoMesh, "no mesh is running: start one with `lateen demo` or `lateen up -f DIR`, or set KUBECONFIG for one in a cluster")
	case a.mesh == "" && len(all) > 1:
		return nil, exit(ExitUsage, "several meshes are running: choose one with --mesh (%s)", strings.Join(names, ", "))
	}
	if a.verbose {
		a.errorf("mesh %s, directory %s, socket %s", found.Name, found.Dir, found.Socket)
	}
	a.namespace = cmp.Or(a.namespace, "default")
	return &target{a: a, local: found, planes: []replica{{"lateend-" + found.Name, api.NewClient(found.Socket)}}}, nil
}

func (a *app) kubeTarget() (*target, error) {
	k, err := a.kube()
	if err != nil {
		return nil, err
	}
	a.namespace = cmp.Or(a.namespace, k.namespace)
	if a.verbose {
		host := ""
		if k.config != nil {
			host = ", API server " + k.config.Host
		}
		a.errorf("context %s%s, control plane in namespace %s", k.context, host, k.system)
	}
	return &target{a: a, kube: k}, nil
}

// Close drops the connections.
func (t *target) Close() {
	for _, p := range t.planes {
		p.Close()
	}
}

// connect finds the replicas of the control plane.
func (t *target) connect() ([]replica, error) {
	if t.planes != nil {
		return t.planes, nil
	}
	ctx, cancel := context.WithTimeout(t.a.ctx, t.a.timeout)
	defer cancel()
	pods, err := t.kube.istiods(ctx)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		t.planes = append(t.planes, replica{pod.Name, t.kube.plane(pod)})
	}
	return t.planes, nil
}

// connected is a proxy and the replica it is connected to.
type connected struct {
	api.Proxy
	plane string
}

// proxies lists the proxies of all replicas.
func (t *target) proxies() ([]connected, error) {
	planes, err := t.connect()
	if err != nil {
		return nil, err
	}
	var out []connected
	for _, p := range planes {
		list, err := call(t.a, func(ctx context.Context) (*api.ProxyList, error) { return p.Proxies(ctx) })
		if err != nil {
			return nil, err
		}
		for _, x := range list.Items {
			out = append(out, connected{x, p.name})
		}
	}
	return out, nil
}

// found lists what the control plane has found. One replica knows all of the
// configuration, but each only its own proxies.
func (t *target) found() ([]api.Finding, error) {
	planes, err := t.connect()
	if err != nil {
		return nil, err
	}
	var out []api.Finding
	seen := map[api.Finding]bool{}
	for _, p := range planes {
		list, err := call(t.a, func(ctx context.Context) (*api.FindingList, error) { return p.Findings(ctx) })
		if err != nil {
			return nil, err
		}
		for _, f := range list.Items {
			if !seen[f] {
				seen[f] = true
				out = append(out, f)
			}
		}
	}
	return out, nil
}

func (a *app) completeMeshes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := localmesh.Running()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Name+"\t"+r.Dir)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	raw, err := a.loader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for n := range raw.Contexts {
		names = append(names, n)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
