// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/lateen-mesh/lateen/internal/install"
)

// readinessTimeout is how long an installation may take as a whole.
const readinessTimeout = 5 * time.Minute

// installFlags are istioctl's.
type installFlags struct {
	set, files  []string
	revision    string
	profile     string
	yes, dryRun bool
	timeout     time.Duration
}

func (f *installFlags) settings(c *cobra.Command) {
	c.Flags().StringArrayVarP(&f.set, "set", "s", nil, "PATH=VALUE: profile, hub, tag, meshConfig.FIELD, values.PATH, components... (repeatable)")
	c.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "IstioOperator file with the same settings, or - (repeatable)")
	c.Flags().StringVarP(&f.revision, "revision", "r", "", "name of this control plane beside others")
	c.Flags().StringVar(&f.profile, "profile", "", "profile: "+strings.Join(install.Profiles(), ", ")+" (short for --set profile=)")
	_ = c.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(install.Profiles(), cobra.ShellCompDirectiveNoFileComp))
}

func (f *installFlags) applying(c *cobra.Command) {
	c.Flags().BoolVarP(&f.yes, "skip-confirmation", "y", false, "do not ask")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the YAML and change nothing")
	c.Flags().DurationVar(&f.timeout, "readiness-timeout", readinessTimeout, "how long to wait until everything works")
}

func (a *app) installCmd() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the mesh into a Kubernetes cluster",
		Long: `Install puts the control plane and the gateways of a profile into the cluster of
the kubeconfig, in order, and waits until they work. Run again, it changes what
is there to what is asked for now, and removes what is no longer part of it.

The profiles: default (control plane and ingress gateway), minimal (control
plane alone), demo (also an egress gateway, small requests, access logs).

Settings have istioctl's paths; one that does not exist is refused and the
nearest named. --dry-run prints what would be applied, without a cluster too.`,
		Example: `  lateen install
  lateen install --set profile=demo -y
  lateen install --set meshConfig.accessLogFile=/dev/stdout --skip-confirmation
  lateen install --set values.pilot.replicaCount=2 --set components.egressGateways[0].enabled=true
  lateen install --dry-run | kubectl apply --dry-run=server -f -`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.install(f) }),
	}
	f.settings(c)
	f.applying(c)
	return c
}

func (a *app) manifestCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "manifest",
		Short:   "Print what an installation consists of",
		Example: `  lateen manifest generate --set profile=demo`,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var f installFlags
	g := &cobra.Command{
		Use:   "generate",
		Short: "Print the YAML of an installation; no cluster is asked",
		Example: `  lateen manifest generate > mesh.yaml
  lateen manifest generate --set profile=minimal --set hub=registry.example.com/lateen`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error {
			plan, err := a.plan(f, "")
			if err != nil {
				return err
			}
			return a.printPlan(plan)
		}),
	}
	f.settings(g)
	c.AddCommand(g)
	return c
}

// plan thinks an installation through. Bad settings have their own exit code.
func (a *app) plan(f installFlags, kubeVersion string) (*install.Plan, error) {
	o := install.Options{Revision: f.revision, Version: a.Version, KubeVersion: kubeVersion, Set: f.set}
	if a.kubeFlags.system != install.DefaultNamespace {
		o.Namespace = a.kubeFlags.system
	}
	if f.profile != "" {
		o.Set = append([]string{"profile=" + f.profile}, f.set...)
	}
	for _, name := range f.files {
		data, err := a.readInput(name)
		if err != nil {
			return nil, exit(ExitBadInput, "-f %s: %w", name, err)
		}
		o.Files = append(o.Files, install.File{Name: name, Data: data})
	}
	p, err := install.NewPlan(o)
	if err != nil {
		return nil, &exitError{ExitBadInput, err}
	}
	for _, w := range p.Warnings {
		a.errorf("warning: %s", w)
	}
	return p, nil
}

func (a *app) printPlan(p *install.Plan) error {
	b, err := p.YAML()
	if err != nil {
		return err
	}
	_, err = a.Stdout.Write(b)
	return err
}

func (a *app) install(f installFlags) error {
	if f.dryRun {
		p, err := a.plan(f, "")
		if err != nil {
			return err
		}
		return a.printPlan(p)
	}
	p, err := a.plan(f, "") // settings first: they are wrong with or without a cluster
	if err != nil {
		return err
	}
	k, err := a.kube()
	if err != nil {
		return err
	}
	// Whoever names a profile has made a choice, as with istioctl.
	chosen := f.profile != ""
	for _, s := range f.set {
		chosen = chosen || strings.HasPrefix(s, "profile=")
	}
	if !f.yes && !chosen {
		what := fmt.Sprintf("This will install the Lateen %s profile (%s) into the cluster of context %s.", p.Profile, p.Version, k.context)
		if err := a.confirm(what); err != nil {
			return err
		}
	}
	return a.applyPlan(k, p, f.timeout)
}

// confirm asks; anything but yes ends the command.
func (a *app) confirm(what string) error {
	fmt.Fprintf(a.Stderr, "%s Proceed? (y/N) ", what)
	line, err := bufio.NewReader(a.Stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	case "":
		if err != nil {
			a.errorf("")
			return exit(ExitUsage, "nobody answered: use --skip-confirmation where nobody can")
		}
	}
	return exit(ExitFailed, "cancelled: nothing was changed")
}

// applyPlan installs, and shows what failed and how to look further.
func (a *app) applyPlan(k *kubeAccess, p *install.Plan, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(a.ctx, timeout)
	defer cancel()
	return a.failure(p.Apply(ctx, a.cluster(k)))
}

func (a *app) failure(err error) error {
	var f *install.Failure
	if !errors.As(err, &f) {
		return unreachable(err)
	}
	a.errorf("✘ %v", f)
	for _, d := range f.Details {
		a.errorf("  %s", d)
	}
	if len(f.Commands) > 0 {
		a.errorf("To see more:")
		for _, c := range f.Commands {
			a.errorf("  %s", c)
		}
	}
	return reported(ExitFailed)
}

// unreachable gives an error that is not an answer of the API server the exit
// code for that.
func unreachable(err error) error {
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	var e interface{ Timeout() bool }
	if errors.As(err, &e) {
		return &exitError{ExitNoMesh, fmt.Errorf("the cluster does not answer: %w", err)}
	}
	return err
}

func (a *app) upgradeCmd() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Upgrade the mesh in a cluster in place",
		Long: `Upgrade brings the control plane and the gateways to the version of this program.
Give it the settings of the installation again: what is not given is as in the
profile. It refuses where nothing is installed, and checks the cluster first, as
lateen check --pre does.

Sidecars stay on their version until their pods are restarted; they go on
working with the newer control plane.`,
		Example: `  lateen upgrade -y
  lateen upgrade --set profile=demo --dry-run
  kubectl rollout restart deployment -n shop   # then the sidecars`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.upgrade(f) }),
	}
	f.settings(c)
	f.applying(c)
	return c
}

func (a *app) upgrade(f installFlags) error {
	p, err := a.plan(f, "")
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.printPlan(p)
	}
	k, err := a.kube()
	if err != nil {
		return err
	}
	name := "istiod"
	if p.Revision != "" {
		name += "-" + p.Revision
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	d, err := k.typed.AppsV1().Deployments(p.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return exit(ExitNoMesh, "there is no control plane %s in namespace %s: use `lateen install`", name, p.Namespace)
	}
	if err != nil {
		return unreachable(err)
	}
	if d.Labels[install.OwnerLabel] != install.Owner {
		return exit(ExitFailed, "Deployment %s/%s is not Lateen's: uninstall what it belongs to, or install Lateen with --revision beside it", p.Namespace, name)
	}
	from := d.Labels["app.kubernetes.io/version"]
	if older, known := isOlder(p.Version, from); known && older && !f.yes {
		a.errorf("warning: this is a downgrade, from %s to %s", from, p.Version)
	}
	if failed := a.preChecks(k); failed {
		return exit(ExitFailed, "the cluster is not ready for an upgrade: see above")
	}
	if !f.yes {
		if err := a.confirm(fmt.Sprintf("This will upgrade %s/%s from %s to %s.", p.Namespace, name, or(from, "an unknown version"), p.Version)); err != nil {
			return err
		}
	}
	return a.applyPlan(k, p, f.timeout)
}

// isOlder compares two versions; known is false when one of them is no release.
func isOlder(v, than string) (older, known bool) {
	x, err1 := version.ParseSemantic(v)
	y, err2 := version.ParseSemantic(than)
	if err1 != nil || err2 != nil {
		return false, false
	}
	return x.LessThan(y), true
}
