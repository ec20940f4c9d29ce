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
	client, mesh, err := a.target()
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := call(a, func(ctx context.Context) (*api.ProxyList, error) { return client.Proxies(ctx) })
	if err != nil {
		return err
	}
	items := list.Items
	if len(args) == 1 {
		p, err := a.findProxy(items, args[0])
		if err != nil {
			return err
		}
		items = []api.Proxy{p}
	}
	switch output {
	case "json":
		return writeJSON(a.Stdout, map[string]any{"items": items})
	case "yaml":
		return writeYAML(a.Stdout, map[string]any{"items": items})
	}
	t := table{header: []string{"NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"}}
	refused := false
	for _, p := range items {
		t.add(p.Name, p.ClusterID, syncWord(p, "CDS"), syncWord(p, "LDS"), syncWord(p, "EDS"),
			worst(syncWord(p, "RDS"), syncWord(p, "VHDS")), or(syncWord(p, "ECDS"), "IGNORED"), "lateend-"+mesh.Name, p.Version)
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
func (a *app) findProxy(items []api.Proxy, name string) (api.Proxy, error) {
	var found []api.Proxy
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
		return api.Proxy{}, exit(ExitFailed, "no proxy %q is connected: none is", name)
	}
	return api.Proxy{}, exit(ExitFailed, "no proxy %q is connected: there are %s", name, strings.Join(names, ", "))
}

func (a *app) completeProxies(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, _, err := a.target()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer client.Close()
	list, err := call(a, func(ctx context.Context) (*api.ProxyList, error) { return client.Proxies(ctx) })
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, p := range list.Items {
		out = append(out, p.Name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// maxDump bounds what is read of a proxy's answer in bytes.
const maxDump = 256 << 20

// admin asks a proxy's admin port. The address is the one the proxy gave in
// its node id (type~address~name~domain).
func (a *app) admin(p api.Proxy, path string) (any, error) {
	parts := strings.Split(p.NodeID, "~")
	if len(parts) != 4 || net.ParseIP(parts[1]) == nil {
		return nil, fmt.Errorf("proxy %s has the odd node id %q", p.Name, p.NodeID)
	}
	url := "http://" + net.JoinHostPort(parts[1], "15000") + path
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}, Timeout: time.Minute}
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
