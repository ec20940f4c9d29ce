// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/config/dir"
	"github.com/lateen-mesh/lateen/internal/localmesh"
)

type upFlags struct {
	dir         string
	name        string
	gatewayPort uint16
	traffic     int
	path        string
}

func (f *upFlags) add(c *cobra.Command) {
	c.Flags().Uint16Var(&f.gatewayPort, "gateway-port", 8080, "port of 127.0.0.1 for the ingress gateway")
	c.Flags().IntVar(&f.traffic, "traffic", 0, "send this many requests a second to the gateway (at most 10000)")
}

func (f *upFlags) check() error {
	if f.traffic < 0 || f.traffic > 10000 {
		return exit(ExitUsage, "--traffic %d: use 0 to 10000", f.traffic)
	}
	if f.gatewayPort == 0 {
		return exit(ExitUsage, "--gateway-port 0: use 1 to 65535")
	}
	return nil
}

func (a *app) upCmd() *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use:   "up -f DIR",
		Short: "Run a mesh on this machine from a directory of YAML",
		Long: `Up runs the control plane, and for every LocalWorkload in the directory its
application and its sidecar, until Ctrl-C. Root is not needed.

Each workload has an address of its own in 127.0.0.0/8, given by its
WorkloadEntry. Its sidecar opens the service's ports there; the application
listens where LISTEN_ADDRESS says and reaches others through HTTP_PROXY.

The directory is watched: what you save is applied. What the mesh must keep, its
root certificate and the logs, is in DIR/.lateen; objects of ` + "`lateen apply`" + `
are in DIR/applied.`,
		Example: `  lateen up -f ./mesh
  lateen up -f ./mesh --gateway-port 9000 --traffic 50 --path /api`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.up(f) }),
	}
	f.add(c)
	c.Flags().StringVarP(&f.dir, "filename", "f", "", "directory with the configuration")
	c.Flags().StringVar(&f.name, "name", "", "name of the mesh; default: that of the directory")
	c.Flags().StringVar(&f.path, "path", "", "path below the gateway for --traffic and the printed URL")
	_ = c.MarkFlagRequired("filename")
	_ = c.MarkFlagDirname("filename")
	return c
}

func (a *app) up(f upFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	abs, err := filepath.Abs(f.dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return exit(ExitBadInput, "-f %s: %w", f.dir, err)
	}
	if f.name == "" {
		f.name = meshName(abs)
	}
	if f.path == "" && f.traffic > 0 {
		f.path = "/"
	}
	a.errorf("Lateen: the mesh of %s\n", f.dir)
	return a.runMesh(localmesh.Options{
		Dir: abs, Name: f.name, GatewayPort: f.gatewayPort, Page: f.path, Traffic: f.traffic,
		Welcome: "Logs are in " + filepath.Join(abs, ".lateen", "logs") + ". Ctrl-C stops everything.",
	})
}

// meshName makes a name of a directory's.
func meshName(dir string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(dir)))
	if len(name) > 40 {
		name = name[:40]
	}
	if name = strings.Trim(name, "-"); name == "" {
		name = "mesh"
	}
	return name
}

// runMesh fills in what all local meshes have in common and runs until the
// context of the command ends.
func (a *app) runMesh(o localmesh.Options) error {
	store, err := dir.Open(o.Dir, dir.Options{Log: slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return exit(ExitBadInput, "%w", err)
	}
	defer store.Close()
	o.Objects = store.Watch
	o.Bin, o.Version = a.Bin, a.Version
	o.Out, o.Progress, o.Color = a.Stdout, a.Stderr, a.terminal(a.Stderr)
	return localmesh.Run(a.ctx, o)
}
