// SPDX-License-Identifier: Apache-2.0

// Command lab runs a real Kubernetes on this machine, for tests and for trying
// things out. docs/lab.md tells how.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lateen-mesh/lateen/test/lab/cluster"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// selected is the lab that the flags name.
type selected struct{ o cluster.Options }

func root() *cobra.Command {
	l := &selected{o: cluster.Options{Name: os.Getenv("LATEEN_LAB"), Log: os.Stderr}}
	if l.o.Name == "" {
		l.o.Name = cluster.DefaultName
	}
	c := &cobra.Command{
		Use: "lab", Short: "A real Kubernetes on this machine",
		Long: "lab runs a real Kubernetes on this machine, inside network namespaces without a way out.",
		// What follows "kubectl" is not parsed here, so what comes before must be.
		TraverseChildren: true,
		SilenceUsage:     true, SilenceErrors: true, CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	c.PersistentFlags().StringVar(&l.o.Name, "name", l.o.Name, "name of the lab; also $LATEEN_LAB")
	c.PersistentFlags().StringVar(&l.o.Dir, "dir", "", "state directory (default $XDG_RUNTIME_DIR/lateen-lab/NAME)")
	c.AddCommand(l.up(), l.build(), l.down(), l.status(), l.run(), l.kubectl(), l.logs(), l.images(),
		l.stop(), l.start(), check(), l.anchor(), l.registry(), loadBalancer())
	return c
}

func (l *selected) open() (*cluster.Cluster, error) { return cluster.Open(l.o) }

func (l *selected) up() *cobra.Command {
	c := &cobra.Command{
		Use: "up", Short: "Start the lab, building what is missing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cluster.Up(cmd.Context(), l.o)
			return err
		},
	}
	c.Flags().IntVar(&l.o.Nodes, "nodes", 1, fmt.Sprintf("number of nodes, at most %d", cluster.MaxNodes))
	return c
}

func (l *selected) build() *cobra.Command {
	return &cobra.Command{
		Use: "build", Short: "Install and build what the lab is made of, and start nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cluster.Prepare(cmd.Context(), l.o) },
	}
}

func (l *selected) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "End the lab and remove all that it left", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cluster.Down(cmd.Context(), l.o) },
	}
}

func (l *selected) run() *cobra.Command {
	c := &cobra.Command{
		Use: "run COMMAND [ARGS...]", Short: "Run a command in the lab's network, with its KUBECONFIG and name server",
		Example: "  lab run curl http://todoapp.172.30.1.1.nip.io", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			return k.Exec(args)
		},
	}
	c.Flags().SetInterspersed(false) // what follows the command is its own
	return c
}

func (l *selected) kubectl() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl [ARGS...]", Short: "Run the cluster's own kubectl as its administrator",
		Long:               "Run the cluster's own kubectl as its administrator. --name and --dir go before the word kubectl.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			return k.Exec(append([]string{"kubectl"}, args...))
		},
	}
}

func (l *selected) logs() *cobra.Command {
	follow := false
	c := &cobra.Command{
		Use: "logs COMPONENT", Short: "Print the log of a component; without one, name them", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				for _, name := range k.Components() {
					fmt.Fprintln(cmd.OutOrStdout(), name)
				}
				return nil
			}
			return k.Log(cmd.Context(), cmd.OutOrStdout(), args[0], follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing what is added")
	return c
}

func (l *selected) stop() *cobra.Command {
	return &cobra.Command{
		Use: "stop COMPONENT", Short: "End one component, to see what the rest does without it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			return k.Stop(cmd.Context(), args[0])
		},
	}
}

func (l *selected) start() *cobra.Command {
	return &cobra.Command{
		Use: "start COMPONENT", Short: "Start a component again", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			return k.Start(args[0])
		},
	}
}
