// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/lateen-mesh/lateen/test/lab/cluster"
	"github.com/lateen-mesh/lateen/test/lab/image"
	"github.com/spf13/cobra"
)

// report is what `lab status -o json` prints.
type report struct {
	Name          string         `json:"name"`
	Ready         bool           `json:"ready"`
	Dir           string         `json:"dir"`
	Kubeconfig    string         `json:"kubeconfig"`
	Server        string         `json:"server"`
	LoadBalancers string         `json:"loadBalancers"`
	DNS           string         `json:"dns"`
	Nodes         []cluster.Node `json:"nodes"`
	Components    []running      `json:"components"`
}

type running struct {
	Name    string `json:"name"`
	Node    string `json:"node"`
	PID     int    `json:"pid"`
	Running bool   `json:"running"`
	Log     string `json:"log"`
}

func (l *selected) status() *cobra.Command {
	output := ""
	c := &cobra.Command{
		Use: "status", Short: "Show the lab's components, nodes and addresses; exit status 1 when it is not all up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output %q: want json, or nothing for a table", output)
			}
			k, err := l.open()
			if err != nil {
				return err
			}
			s := k.State()
			r := report{
				Name: s.Name, Ready: s.Ready, Dir: s.Dir, Kubeconfig: s.Kubeconfig, Server: s.Server(),
				LoadBalancers: cluster.LoadBalancers.String(), DNS: cluster.DNS.String(), Nodes: s.Nodes,
			}
			for _, c := range s.Components {
				up := k.Running(c.Name)
				r.Ready = r.Ready && up
				r.Components = append(r.Components, running{c.Name, c.Node, c.PID, up, s.LogFile(c.Name)})
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if err == nil && !r.Ready {
				err = fmt.Errorf("lab %s is not all up", s.Name)
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, or nothing for a table")
	return c
}

func (r report) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 8, 3, ' ', 0)
	fmt.Fprintf(w, "NAME\t%s\nDIRECTORY\t%s\nKUBECONFIG\t%s\nAPI SERVER\t%s\nDNS\t%s\nLOAD BALANCERS\t%s\n\n",
		r.Name, r.Dir, r.Kubeconfig, r.Server, r.DNS, r.LoadBalancers)
	fmt.Fprintln(w, "NODE\tADDRESS\tPODS\tNETNS\tREGION\tZONE")
	for _, n := range r.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Address, n.Pods, n.NetNS, n.Region, n.Zone)
	}
	fmt.Fprintln(w, "\nCOMPONENT\tNODE\tPID\tSTATE")
	for _, c := range r.Components {
		state := "running"
		switch {
		case c.PID == 0:
			state = "stopped"
		case !c.Running:
			state = "ended: lab logs " + c.Name
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", c.Name, c.Node, c.PID, state)
	}
	return w.Flush()
}

func check() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Tell whether this machine can run the lab", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bad := 0
			for _, f := range cluster.Check() {
				if f.Err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "ok    %s\n", f.Name)
					continue
				}
				bad++
				fmt.Fprintf(cmd.OutOrStdout(), "FAIL  %s: %v\n      %s\n", f.Name, f.Err, f.Hint)
			}
			if bad > 0 {
				return errors.New("this machine cannot run the lab")
			}
			return nil
		},
	}
}

func (l *selected) images() *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "Build images, and give them to the nodes"}
	c.AddCommand(&cobra.Command{
		Use: "import FILE...", Short: "Give image archives (OCI or docker) to all nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := l.open()
			if err != nil {
				return err
			}
			return k.Import(cmd.Context(), args...)
		},
	})
	var o image.Options
	build := &cobra.Command{
		Use: "build [NAME...]", Short: "Build the images of this repository, and give them to the nodes of a lab that is up",
		Long: "Build the images of this repository, all or those of the archives or image names given, and give them to the nodes of a lab that is up.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Only, o.Log = args, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			built, err := image.BuildAll(cmd.Context(), o)
			if err != nil {
				return err
			}
			var paths []string
			for _, b := range built {
				paths = append(paths, b.Path)
				fmt.Fprintln(cmd.OutOrStdout(), b.Path)
			}
			k, err := l.open()
			if errors.Is(err, cluster.ErrNone) {
				fmt.Fprintln(os.Stderr, "lab: no lab is up to import them into")
				return nil
			}
			if err != nil {
				return err
			}
			return k.Import(cmd.Context(), paths...)
		},
	}
	build.Flags().StringVar(&o.Tag, "tag", "dev", "tag and version of Lateen's own images")
	c.AddCommand(build)
	return c
}
