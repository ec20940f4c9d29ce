// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

// planeCommand is how lateend is started.
func (m *machine) planeCommand() []string {
	return []string{
		filepath.Join(m.opts.Bin, "lateend"),
		"--config-dir", m.opts.Dir,
		"--state-dir", m.state,
		"--socket", m.socket,
		"--name", m.opts.Name,
		"--xds-address", m.plane.xds.String(),
		"--xds-plaintext-address", m.plane.plain.String(),
		"--debug-address", m.plane.debug.String(),
	}
}

// proxyCommand is how a sidecar or gateway is started; its token is the first
// inherited descriptor.
func (m *machine) proxyCommand(bootstrap string, w workload) []string {
	return []string{
		filepath.Join(m.opts.Bin, "lateen-proxy"), "run", "-c", bootstrap,
		"--token-file", tokenPath,
		"--health-address", netip.AddrPortFrom(w.Address, healthPort).String(),
	}
}

// publishing is the time the control plane has to see a change that we saw, and
// to make it known: both of us watch the same directory.
const publishing = 300 * time.Millisecond

// forgotten waits until the other proxies have been told that w is gone, or
// for the time that may take at most: then nothing new comes in while it drains.
func (m *machine) forgotten(w workload) {
	time.Sleep(publishing)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := m.client.Wait(ctx, api.WaitRequest{Timeout: 3 * time.Second}); err != nil {
		m.progress.wrong(w.display(), "cannot learn whether others still call it: "+err.Error(), nil)
	}
}
