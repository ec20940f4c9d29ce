// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/localmesh"
)

// target finds the mesh the command is for: --mesh, else the one that runs.
func (a *app) target() (*api.Client, localmesh.Registration, error) {
	none := localmesh.Registration{}
	all, err := localmesh.Running()
	if err != nil {
		return nil, none, err
	}
	var names []string
	found := none
	for _, r := range all {
		names = append(names, r.Name)
		if r.Name == a.mesh || a.mesh == "" {
			found = r
		}
	}
	switch {
	case found.Name == "" && a.mesh != "" && len(all) > 0:
		return nil, none, exit(ExitNoMesh, "no mesh named %q is running: there is %s", a.mesh, strings.Join(names, ", "))
	case found.Name == "":
		return nil, none, exit(ExitNoMesh, "no mesh is running: start one with `lateen demo` or `lateen up -f DIR`")
	case a.mesh == "" && len(all) > 1:
		return nil, none, exit(ExitUsage, "several meshes are running: choose one with --mesh (%s)", strings.Join(names, ", "))
	}
	if a.verbose {
		a.errorf("mesh %s, directory %s, socket %s", found.Name, found.Dir, found.Socket)
	}
	return api.NewClient(found.Socket), found, nil
}

func (a *app) completeMeshes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := localmesh.Running()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Name+"\t"+r.Dir)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
