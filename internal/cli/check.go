// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/install/check"
)

type checkFlags struct {
	pre    bool
	output string
}

func (a *app) checkCmd() *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Check that the mesh in a cluster is well",
		Long: `Check looks at the cluster, the control plane, its webhooks and certificates and
the proxies, and says for everything that is not well what to do about it. With
--pre it checks instead whether a mesh can be installed.

√ is well, ‼ is a warning, × has failed. The exit code is 1 when something has
failed, and 0 with warnings.`,
		Example: `  lateen check --pre
  lateen check
  lateen check -o json`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.check(f) }),
	}
	c.Flags().BoolVar(&f.pre, "pre", false, "check whether a mesh can be installed")
	c.Flags().StringVarP(&f.output, "output", "o", "table", "table, short (what is not well) or json")
	return c
}

func (a *app) check(f checkFlags) error {
	if err := oneOf("output", f.output, "table", "short", "json"); err != nil {
		return err
	}
	k, err := a.kube()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, cmp.Or(a.timeout, readinessTimeout)*3)
	defer cancel()
	report := a.runChecks(ctx, k, f.pre)
	switch f.output {
	case "json":
		err = writeJSON(a.Stdout, report)
	default:
		err = report.Write(a.Stdout, f.output == "short")
	}
	if err != nil {
		return err
	}
	if !report.Success {
		return reported(ExitFailed)
	}
	return nil
}

func (a *app) runChecks(ctx context.Context, k *kubeAccess, pre bool) check.Report {
	env := check.Env{
		Typed: k.typed, Dynamic: k.dynamic, Namespace: k.system, Version: a.Version, Now: a.Now,
	}
	if pre {
		return check.Run(ctx, env, check.Pre())
	}
	t := &target{a: a, kube: k}
	defer t.Close()
	env.Mesh = func(context.Context) (check.Mesh, error) { return a.meshState(t) }
	return check.Run(ctx, env, check.Installed())
}

// meshState is what the control plane itself says.
func (a *app) meshState(t *target) (check.Mesh, error) {
	var m check.Mesh
	planes, err := t.connect()
	if err != nil {
		return m, err
	}
	for _, p := range planes {
		v, err := call(a, p.Version)
		if err != nil {
			return m, err
		}
		m.Planes = append(m.Planes, check.Plane{Name: p.name, Version: v.Version})
	}
	proxies, err := t.proxies()
	if err != nil {
		return m, err
	}
	for _, p := range proxies {
		x := check.Proxy{Name: p.Name, Version: p.Version, Identity: p.Identity}
		for typ, s := range p.Types {
			switch s.Status {
			case "NACK":
				x.Refused = append(x.Refused, typ+": "+s.Message)
			case "STALE":
				x.Stale = append(x.Stale, typ)
			}
		}
		m.Proxies = append(m.Proxies, x)
	}
	found, err := t.found()
	if err != nil {
		return m, err
	}
	for _, f := range found {
		if f.Severity == "error" {
			m.Findings = append(m.Findings, fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message))
		}
	}
	return m, nil
}

// preChecks runs the checks of --pre and prints what is not well.
func (a *app) preChecks(k *kubeAccess) (failed bool) {
	ctx, cancel := context.WithTimeout(a.ctx, 3*a.timeout)
	defer cancel()
	report := check.Run(ctx, check.Env{Typed: k.typed, Dynamic: k.dynamic, Namespace: k.system, Version: a.Version, Now: a.Now}, check.Upgrade())
	if !report.Success {
		_ = report.Write(a.Stderr, true)
	}
	return !report.Success
}
