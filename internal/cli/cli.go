// SPDX-License-Identifier: Apache-2.0

// Package cli is the lateen command line: one file per verb. Data goes to
// standard output, everything else to standard error, and the exit code says
// what kind of failure it was.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/install"
)

// The exit codes, those of istioctl (sysexits.h) where it has one.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitFindings = 2
	ExitUsage    = 64
	ExitBadInput = 65
	ExitNoMesh   = 69
)

// Env is what a command takes from the process it runs in.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Version        string
	// Bin is the directory with the sibling programs.
	Bin string
	Now func() time.Time
}

// exitError carries the exit code of a failure. A nil err was already reported.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

// reported ends a command whose failures have been printed.
func reported(code int) error { return &exitError{code, nil} }

// app is one invocation.
type app struct {
	Env
	ctx context.Context

	mesh      string
	namespace string
	verbose   bool
	timeout   time.Duration
	kubeFlags kubeFlags
	// openKube, when set, is the cluster; tests have one of their own.
	openKube func() (*kubeAccess, error)
}

// Run executes one command line and returns the exit code.
func Run(ctx context.Context, args []string, env Env) int {
	return (&app{Env: env, ctx: ctx}).run(args)
}

func (a *app) run(args []string) int {
	env, root := a.Env, a.root()
	root.SetArgs(plainDashes(args))
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return ExitOK
	}
	var e *exitError
	if errors.As(err, &e) {
		if e.err != nil {
			fmt.Fprintf(env.Stderr, "lateen: %v\n", e.err)
		}
		return e.code
	}
	// Only cobra's own errors come without a code: the command line is wrong.
	fmt.Fprintf(env.Stderr, "lateen: %v\nRun `%s -h` for help.\n", err, cmd.CommandPath())
	return ExitUsage
}

// plainDashes turns the dashes that documents set for two hyphens back: —set
// and — set are --set.
func plainDashes(args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		rest, long := strings.CutPrefix(args[i], "—")
		if !long {
			rest, long = strings.CutPrefix(args[i], "–")
		}
		if long && rest == "" && i+1 < len(args) {
			i++
			rest = args[i]
		}
		if long && rest != "" {
			out = append(out, "--"+rest)
			continue
		}
		out = append(out, args[i])
	}
	return out
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lateen",
		Short: "A service mesh with Istio's API",
		Long: `lateen installs a service mesh into a Kubernetes cluster or runs one on this
machine, applies Istio's YAML to it, and shows what its proxies do.

The mesh of a command is the one that --mesh names, else that of --kubeconfig
or --context, else the one that runs on this machine, else that of the
kubeconfig's current context; -v says which it is.

Exit codes: 0 done, 1 failed, 2 findings, 64 wrong usage, 65 bad input,
69 no mesh is running.`,
		Example: `  lateen install                               # into the cluster
  lateen demo                                  # Bookinfo in a mesh, now
  lateen up -f ./mesh                          # your own services
  lateen apply -f virtual-service.yaml --wait
  lateen proxy status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.mesh, "mesh", a.Getenv("LATEEN_MESH"), "name of the running mesh (LATEEN_MESH); default: the one that runs")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say which mesh is talked to")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	f.StringVarP(&a.kubeFlags.kubeconfig, "kubeconfig", "c", "", "kubeconfig of the cluster (KUBECONFIG)")
	f.StringVar(&a.kubeFlags.context, "context", "", "context of the kubeconfig")
	f.StringVarP(&a.kubeFlags.system, "istioNamespace", "i", install.DefaultNamespace, "namespace of the control plane in a cluster")
	f.StringVar(&a.kubeFlags.as, "as", "", "user to impersonate in the cluster")
	f.StringArrayVar(&a.kubeFlags.asGroups, "as-group", nil, "group to impersonate in the cluster (repeatable)")
	_ = root.RegisterFlagCompletionFunc("mesh", a.completeMeshes)
	_ = root.RegisterFlagCompletionFunc("context", a.completeContexts)
	root.AddCommand(a.demoCmd(), a.upCmd(), a.applyCmd(), a.getCmd(), a.deleteCmd(), a.proxyCmd(), a.versionCmd())
	root.AddCommand(a.installCmd(), a.upgradeCmd(), a.uninstallCmd(), a.manifestCmd(), a.checkCmd(), a.injectCmd(), a.experimentalCmd())
	root.AddCommand(a.short()...)
	return root
}

// namespaced adds -n to a command.
func (a *app) namespaced(c *cobra.Command) {
	c.Flags().StringVarP(&a.namespace, "namespace", "n", "", "namespace of what is named without one (default: of the context, else default)")
}

// verb turns a function into a cobra RunE whose failures carry an exit code.
func verb(f func(args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		err := f(args)
		var e *exitError
		if err == nil || errors.As(err, &e) {
			return err
		}
		return &exitError{ExitFailed, err}
	}
}

// call runs one request to the control plane with the user's timeout. That it
// cannot be reached is a failure of its own kind.
func call[T any](a *app, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	out, err := f(ctx)
	var answered *api.Error
	if err != nil && !errors.As(err, &answered) {
		err = &exitError{ExitNoMesh, fmt.Errorf("the mesh does not answer: %w", err)}
	}
	return out, err
}

// terminal reports whether w is one that may be coloured.
func (a *app) terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || a.Getenv("NO_COLOR") != "" || a.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (a *app) errorf(format string, args ...any) {
	fmt.Fprintf(a.Stderr, format+"\n", args...)
}

// oneOf checks the value of a flag that has a few.
func oneOf(flag, value string, allowed ...string) error {
	for _, v := range allowed {
		if v == value {
			return nil
		}
	}
	return exit(ExitUsage, "--%s %q: use one of %s", flag, value, strings.Join(allowed, ", "))
}
