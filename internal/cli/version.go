// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

type versions struct {
	Client       string         `json:"client"`
	ControlPlane string         `json:"controlPlane,omitempty"`
	DataPlane    map[string]int `json:"dataPlane,omitempty"` // proxies by version
}

func (a *app) versionCmd() *cobra.Command {
	var output string
	var clientOnly bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of lateen, the control plane and the proxies",
		Example: `  lateen version
  lateen version --client -o json`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.version(output, clientOnly) }),
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	c.Flags().BoolVar(&clientOnly, "client", false, "ask no mesh")
	return c
}

func (a *app) version(output string, clientOnly bool) error {
	if err := oneOf("output", output, "table", "json", "yaml"); err != nil {
		return err
	}
	v := versions{Client: a.Version}
	if !clientOnly {
		// That nothing runs is no reason not to say who we are.
		err := a.meshVersions(&v)
		if err != nil && !noMesh(err) {
			return err
		}
		if err != nil && (a.wantsKube() || a.hasKube()) {
			a.errorf("note: %v", err)
		}
	}
	switch output {
	case "json":
		return writeJSON(a.Stdout, v)
	case "yaml":
		return writeYAML(a.Stdout, v)
	}
	fmt.Fprintf(a.Stdout, "client version: %s\n", v.Client)
	if v.ControlPlane != "" {
		fmt.Fprintf(a.Stdout, "control plane version: %s\n", v.ControlPlane)
	}
	if len(v.DataPlane) > 0 {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v.DataPlane)) {
			unit := "proxies"
			if v.DataPlane[k] == 1 {
				unit = "proxy"
			}
			parts = append(parts, fmt.Sprintf("%s (%d %s)", k, v.DataPlane[k], unit))
		}
		fmt.Fprintf(a.Stdout, "data plane version: %s\n", strings.Join(parts, ", "))
	}
	return nil
}

func (a *app) meshVersions(v *versions) error {
	t, err := a.target()
	if err != nil {
		return err
	}
	defer t.Close()
	planes, err := t.connect()
	if err != nil {
		return err
	}
	var seen []string
	for _, p := range planes {
		plane, err := call(a, func(ctx context.Context) (*api.Version, error) { return p.Version(ctx) })
		if err != nil {
			return err
		}
		if !slices.Contains(seen, plane.Version) {
			seen = append(seen, plane.Version)
		}
	}
	v.ControlPlane = strings.Join(seen, ", ")
	proxies, err := t.proxies()
	if err != nil {
		return err
	}
	v.DataPlane = map[string]int{}
	for _, p := range proxies {
		v.DataPlane[p.Version]++
	}
	return nil
}
