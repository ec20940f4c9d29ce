// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/lateen-mesh/lateen/test/lab/addresses"
	"github.com/lateen-mesh/lateen/test/lab/cluster"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// anchor, registry and load-balancer are processes of the lab that this program runs as.

func (l *selected) anchor() *cobra.Command {
	node := ""
	c := &cobra.Command{
		Use: "anchor", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := cluster.Anchor(l.o.Dir, node, func() { fmt.Fprintln(os.Stdout, cluster.AnchorReady) })
			if err == nil {
				<-cmd.Context().Done()
			}
			return err
		},
	}
	c.Flags().StringVar(&node, "node", "", "the node to hold together")
	return c
}

func (l *selected) registry() *cobra.Command {
	return &cobra.Command{
		Use: "registry", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.ServeRegistry(cmd.Context(), l.o.Dir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
}

func loadBalancer() *cobra.Command {
	kubeconfig := ""
	c := &cobra.Command{
		Use: "load-balancer", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			config.UserAgent = "lateen-lab-load-balancer"
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return addresses.Run(cmd.Context(), client, cluster.LoadBalancers, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	return c
}
