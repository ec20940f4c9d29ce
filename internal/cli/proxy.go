// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

func (a *app) proxyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Show what the proxies run",
		Example: `  lateen proxy status
  lateen proxy config route productpage-v1`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.proxyStatusCmd(), a.proxyConfigCmd())
	return c
}

// short are `proxy status` and `proxy config` under the names istioctl's users
// type, left out of the help.
func (a *app) short() []*cobra.Command {
	ps, pc := a.proxyStatusCmd(), a.proxyConfigCmd()
	ps.Use, pc.Use = "ps [NAME]", "pc"
	ps.Aliases, pc.Aliases = []string{"proxy-status"}, []string{"proxy-config"}
	ps.Hidden, pc.Hidden = true, true
	return []*cobra.Command{ps, pc}
}

func (a *app) proxyStatusCmd() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "status [NAME]",
		Aliases: []string{"ps"},
		Short:   "Show which proxies are connected and up to date",
		Long: `Status shows, for every connected proxy and resource type, whether the proxy has
acknowledged the newest configuration.

SYNCED: acknowledged. STALE: sent, not acknowledged. NOT SENT: there is nothing
to send. NACK: the proxy refused it; the reason goes to standard error, the
proxy keeps what it had, and the exit code is 2.`,
		Example: `  lateen proxy status
  lateen proxy status reviews-v1
  lateen proxy ps -o json`,
		Args:              cobra.MaximumNArgs(1),
		RunE:              verb(func(args []string) error { return a.proxyStatus(args, output) }),
		ValidArgsFunction: a.completeProxies,
	}
	a.namespaced(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return c
}

func (a *app) proxyStatus(args []string, output string) error {
	if err := oneOf("output", output, "table", "json", "yaml"); err != nil {
		return err
	}
	mesh, err := a.target()
	if err != nil {
		return err
	}
	defer mesh.Close()
	items, err := mesh.proxies()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		p, err := a.findProxy(items, args[0])
		if err != nil {
			return err
		}
		items = []connected{p}
	}
	plain := make([]api.Proxy, len(items))
	for i, p := range items {
		plain[i] = p.Proxy
	}
	switch output {
	case "json":
		return writeJSON(a.Stdout, map[string]any{"items": plain})
	case "yaml":
		return writeYAML(a.Stdout, map[string]any{"items": plain})
	}
	t := table{header: []string{"NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"}}
	refused := false
	for _, p := range items {
		t.add(p.Name, p.ClusterID, syncWord(p.Proxy, "CDS"), syncWord(p.Proxy, "LDS"), syncWord(p.Proxy, "EDS"),
			worst(syncWord(p.Proxy, "RDS"), syncWord(p.Proxy, "VHDS")), or(syncWord(p.Proxy, "ECDS"), "IGNORED"), p.plane, p.Version)
	}
	if err := t.write(a.Stdout); err != nil {
		return err
	}
	for _, p := range items {
		for _, typ := range slices.Sorted(maps.Keys(p.Types)) {
			if s := p.Types[typ]; s.Status == "NACK" {
				a.errorf("%s refused %s: %s", p.Name, typ, s.Message)
				refused = true
			}
		}
	}
	if refused {
		return reported(ExitFindings)
	}
	return nil
}

// syncWord is the status of a type, empty when the proxy never asked for it.
func syncWord(p api.Proxy, typ string) string {
	s, ok := p.Types[typ]
	if !ok {
		if typ == "ECDS" || typ == "VHDS" {
			return ""
		}
		return "NOT SENT"
	}
	return s.Status
}

func or(s, otherwise string) string { return cmp.Or(s, otherwise) }

// worst joins the states of a route configuration and of its virtual hosts.
func worst(words ...string) string {
	for _, w := range []string{"NACK", "STALE", "SYNCED", "NOT SENT"} {
		if slices.Contains(words, w) {
			return w
		}
	}
	return words[0]
}

// findProxy resolves NAME or NAME.NAMESPACE.
func (a *app) findProxy(items []connected, name string) (connected, error) {
	var found []connected
	for _, p := range items {
		if p.Name == name || p.Name == name+"."+a.namespace {
			return p, nil
		}
		if strings.HasPrefix(p.Name, name+".") {
			found = append(found, p)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var names []string
	for _, p := range items {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return connected{}, exit(ExitFailed, "no proxy %q is connected: none is", name)
	}
	return connected{}, exit(ExitFailed, "no proxy %q is connected: there are %s", name, strings.Join(names, ", "))
}

func (a *app) completeProxies(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	t, err := a.target()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer t.Close()
	list, err := t.proxies()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, p := range list {
		out = append(out, p.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// maxDump bounds what is read of a proxy's answer in bytes.
const maxDump = 256 << 20

// adminPort is the port of a proxy's own interface, on its loopback.
const adminPort = 15000

// adminDial is how a proxy's admin port is reached: in a cluster by forwarding
// to its pod, on one machine at the address that the proxy gave in its node id
// (type~address~name~domain).
func (t *target) adminDial(p api.Proxy) (url string, dial func(ctx context.Context, network, address string) (net.Conn, error), err error) {
	parts := strings.Split(p.NodeID, "~")
	if len(parts) != 4 || net.ParseIP(parts[1]) == nil {
		return "", nil, fmt.Errorf("proxy %s has the odd node id %q", p.Name, p.NodeID)
	}
	if t.kube == nil {
		var d net.Dialer
		return "http://" + net.JoinHostPort(parts[1], strconv.Itoa(adminPort)), d.DialContext, nil
	}
	// A pod's name may have dots, a namespace's not.
	i := strings.LastIndexByte(parts[2], '.')
	if i < 1 {
		return "", nil, fmt.Errorf("proxy %s has the odd node id %q", p.Name, p.NodeID)
	}
	pod, namespace := parts[2][:i], parts[2][i+1:]
	return "http://localhost", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return t.kube.forward(ctx, namespace, pod, adminPort)
	}, nil
}

// admin asks a proxy's admin port.
func (t *target) admin(p api.Proxy, path string) (any, error) {
	a := t.a
	url, dial, err := t.adminDial(p)
	if err != nil {
		return nil, err
	}
	url += path
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DialContext: dial, DisableKeepAlives: true}, Timeout: time.Minute}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("admin port of %s: %w", p.Name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDump+1))
	if err != nil {
		return nil, fmt.Errorf("admin port of %s: %w", p.Name, err)
	}
	if len(body) > maxDump {
		return nil, fmt.Errorf("admin port of %s: more than %d bytes", p.Name, maxDump)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("admin port of %s: %s answers %s", p.Name, path, res.Status)
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, errors.Join(fmt.Errorf("admin port of %s: %s is no JSON", p.Name, path), err)
	}
	return v, nil
}
