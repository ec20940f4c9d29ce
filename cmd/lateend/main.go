// SPDX-License-Identifier: Apache-2.0

// Command lateend is the control plane of a Lateen mesh.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := command().Execute(); err != nil {
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o controlplane.Options
	var level slog.Level
	cluster := controlplane.Kubernetes{Pod: os.Getenv("POD_NAME"), Namespace: os.Getenv("POD_NAMESPACE")}
	inCluster := false
	c := &cobra.Command{
		Use:   "lateend {--config-dir DIR | --kubernetes}",
		Short: "The control plane of a Lateen mesh",
		Long:  "lateend reads Istio configuration from a directory or from a cluster's API server and brings it to the proxies of the mesh.",
		Example: `  lateend --config-dir ./mesh --state-dir ./state --socket ./state/socket --xds-address 127.0.0.1:15012
  lateend --kubernetes --revision canary      # in a pod; POD_NAME and POD_NAMESPACE say which`,
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Most of the heap is resources that live as long as the configuration.
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(50)
			}
			if inCluster {
				o.Kubernetes = &cluster
				clusterDefaults(cmd, &o)
			}
			o.Version = version
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if err := controlplane.Run(ctx, o); err != nil {
				fmt.Fprintln(os.Stderr, "lateend:", err)
				return err
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.ConfigDir, "config-dir", "", "directory of the configuration, watched")
	f.StringVar(&o.StateDir, "state-dir", "", "directory of the authority's root and token key (made, 0700)")
	f.StringVar(&o.Socket, "socket", "", "Unix socket for the command line (0600)")
	f.StringVar(&o.Name, "name", "default", "name of the mesh")
	f.StringVar(&o.SecureAddress, "xds-address", "", "address of discovery and certificates over TLS; needs --state-dir")
	f.StringVar(&o.PlainAddress, "xds-plaintext-address", "", "loopback address of discovery without TLS, secrets and certificates")
	f.StringVar(&o.DebugAddress, "debug-address", "", "loopback address of metrics and debug information")
	f.StringVar(&o.TrustDomain, "trust-domain", "", "trust domain of the mesh's identities (default: the mesh configuration's)")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	f.BoolVar(&inCluster, "kubernetes", false, "read the configuration from a cluster's API server and serve its webhooks")
	f.StringVar(&cluster.Kubeconfig, "kubeconfig", "", "file with the cluster's credentials (default: those of the pod)")
	f.StringVar(&cluster.Revision, "revision", "default", "revision of this control plane")
	f.StringVar(&cluster.WebhookAddress, "webhook-address", ":15017", "address of injection and validation in a cluster")
	f.StringVar(&cluster.ReadyAddress, "ready-address", ":8080", "address of /ready in a cluster")
	f.StringVar(&cluster.APIAddress, "api-address", "127.0.0.1:9876", "loopback address of the command line's interface in a cluster")
	c.MarkFlagsOneRequired("config-dir", "kubernetes")
	c.MarkFlagsMutuallyExclusive("config-dir", "kubernetes")
	c.SetContext(context.Background())
	return c
}

// clusterDefaults opens Istio's ports, unless the command line says otherwise.
func clusterDefaults(cmd *cobra.Command, o *controlplane.Options) {
	for flag, def := range map[string]struct {
		to *string
		at string
	}{
		"xds-address": {&o.SecureAddress, ":15012"}, "xds-plaintext-address": {&o.PlainAddress, ":15010"}, "debug-address": {&o.DebugAddress, ":15014"},
	} {
		if !cmd.Flags().Changed(flag) {
			*def.to = def.at
		}
	}
}
