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
	c := &cobra.Command{
		Use:           "lateend --config-dir DIR",
		Short:         "The control plane of a Lateen mesh",
		Long:          "lateend reads Istio configuration from a directory and brings it to the proxies of the mesh.",
		Example:       "  lateend --config-dir ./mesh --state-dir ./state --socket ./state/socket --xds-address 127.0.0.1:15012",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Most of the heap is resources that live as long as the configuration.
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(50)
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
	_ = c.MarkFlagRequired("config-dir") // the flag exists
	c.SetContext(context.Background())
	return c
}
