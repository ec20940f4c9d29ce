// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/localmesh"
	"github.com/lateen-mesh/lateen/samples/bookinfo"
)

const demoWelcome = `
Reload the page: its stars are none, black or red, as reviews v1, v2 or v3
answers. Sign in as jason, with any password.

In another terminal:
  lateen proxy status                     # who is in the mesh
  lateen get virtualservices              # what routes there are
  lateen proxy config route productpage-v1
  lateen apply -f FILE --wait             # any of Istio's Bookinfo examples

Ctrl-C stops everything and leaves nothing behind.`

func (a *app) demoCmd() *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the Bookinfo application in a mesh on this machine",
		Long: `Demo runs Bookinfo (a page put together by four services, one of them in three
versions) with a sidecar beside every service, mutual TLS between them and an
ingress gateway in front. It needs neither root nor Kubernetes, keeps everything
in a temporary directory, and leaves nothing behind after Ctrl-C.`,
		Example: `  lateen demo
  lateen demo --gateway-port 9000
  lateen demo --traffic 200            # 200 requests a second`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.demo(f) }),
	}
	f.add(c)
	c.Flags().StringVar(&f.name, "name", "demo", "name of the mesh")
	return c
}

func (a *app) demo(f upFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", localmesh.TempPrefix+f.name+"-")
	if err != nil {
		return fmt.Errorf("make a place for the demo: %w", err)
	}
	defer func() {
		if rmErr := os.RemoveAll(dir); err == nil && rmErr != nil {
			err = rmErr
		}
	}()
	if err := os.CopyFS(dir, bookinfo.Mesh()); err != nil {
		return fmt.Errorf("copy the sample: %w", err)
	}
	a.errorf("Lateen: Bookinfo in a service mesh on this machine\n")
	return a.runMesh(localmesh.Options{
		Dir: dir, Temporary: true, Name: f.name, GatewayPort: f.gatewayPort,
		Page: "/productpage", Traffic: f.traffic, Welcome: demoWelcome,
	})
}
