// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/install"
)

type uninstallFlags struct {
	revision   string
	purge, yes bool
	dryRun     bool
}

func (a *app) uninstallCmd() *cobra.Command {
	var f uninstallFlags
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the mesh from a cluster",
		Long: `Uninstall removes the control plane (that of --revision, else the default one),
its gateways, webhooks and permissions, and the root certificates it had put
into the namespaces. What users wrote stays, and with it the definitions of its
kinds, and the CA's key, so that a new control plane goes on where this one ended.

With --purge all of that goes as well, of every revision. The namespace of the
control plane stays, because it may hold what is not ours:
kubectl delete namespace istio-system.

Pods keep their sidecars until they are restarted.`,
		Example: `  lateen uninstall
  lateen uninstall --revision canary
  lateen uninstall --purge -y`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.uninstall(f) }),
	}
	c.Flags().StringVarP(&f.revision, "revision", "r", "", "control plane to remove (default: the one without a name)")
	c.Flags().BoolVar(&f.purge, "purge", false, "remove everything, what users wrote included")
	c.Flags().BoolVarP(&f.yes, "skip-confirmation", "y", false, "do not ask")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "name what would be removed and change nothing")
	return c
}

func (a *app) uninstall(f uninstallFlags) error {
	k, err := a.kube()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, readinessTimeout)
	defer cancel()
	cluster := a.cluster(k)
	r, err := install.FindInstalled(ctx, cluster, install.RemoveOptions{Namespace: k.system, Revision: f.revision, Purge: f.purge})
	if err != nil {
		return unreachable(err)
	}
	if f.dryRun {
		for _, o := range r.Objects {
			fmt.Fprintln(a.Stdout, install.Describe(o))
		}
		return nil
	}
	if len(r.Objects) == 0 && !f.purge {
		return exit(ExitNoMesh, "there is nothing to uninstall in context %s", k.context)
	}
	if !f.yes {
		what := fmt.Sprintf("This will remove %d objects from the cluster of context %s.", len(r.Objects), k.context)
		if f.purge {
			what = fmt.Sprintf("This will remove %d objects from the cluster of context %s, and every object of Istio's kinds that users wrote.", len(r.Objects), k.context)
		}
		if err := a.confirm(what); err != nil {
			return err
		}
	}
	if err := a.failure(r.Apply(ctx, cluster)); err != nil {
		return err
	}
	if f.purge {
		a.errorf("Namespace %s stays, because it may hold what is not ours: kubectl delete namespace %s", k.system, k.system)
	}
	return nil
}

// experimentalCmd holds verbs under the names that istioctl's users type.
func (a *app) experimentalCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "experimental",
		Aliases: []string{"x", "exp"},
		Short:   "Verbs under istioctl's experimental names",
		Example: `  lateen x uninstall --purge
  lateen x precheck`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	pre := a.checkCmd()
	pre.Use, pre.Short, pre.Hidden = "precheck", "Check whether a mesh can be installed: lateen check --pre", true
	_ = pre.Flags().Set("pre", "true")
	un := a.uninstallCmd()
	un.Hidden = true
	c.AddCommand(un, pre)
	return c
}
