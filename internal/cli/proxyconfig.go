// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// view is one kind of `proxy config`: what is asked of the proxy and how the
// answer becomes a table or the values of -o json.
type view struct {
	name, short string
	path        string
	table       func(a *app, dump any) table
	values      func(dump any) any
}

func views() []view {
	return []view{
		{name: "listener", short: "the ports a proxy opens and where they lead", path: "/config_dump", table: listenerTable, values: listeners},
		{name: "route", short: "the routes of a proxy", path: "/config_dump", table: routeTable, values: routes},
		{name: "cluster", short: "the upstream clusters of a proxy", path: "/config_dump", table: clusterTable, values: clusters},
		{name: "endpoint", short: "the endpoints of a proxy's clusters", path: "/clusters?format=json", table: endpointTable, values: func(d any) any { return list(d, "cluster_statuses") }},
		{name: "secret", short: "the certificates of a proxy", path: "/config_dump", table: secretTable, values: func(d any) any { return section(d, "SecretsConfigDump") }},
		{name: "bootstrap", short: "what a proxy was started with", path: "/config_dump", values: func(d any) any { return section(d, "BootstrapConfigDump") }},
	}
}

func (a *app) proxyConfigCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Aliases: []string{"pc"},
		Short:   "Show the configuration a proxy runs",
		Long: `Config asks a proxy, by NAME or NAME.NAMESPACE, for what it really runs, which is
what decides about requests.`,
		Example: `  lateen proxy config listener productpage-v1
  lateen proxy config route productpage-v1 -o json
  lateen proxy pc endpoint istio-ingressgateway.istio-system`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, v := range views() {
		c.AddCommand(a.proxyConfigViewCmd(v))
	}
	return c
}

func (a *app) proxyConfigViewCmd(v view) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   v.name + " NAME",
		Short: "Show " + v.short,
		Example: fmt.Sprintf(`  lateen proxy config %[1]s productpage-v1
  lateen proxy config %[1]s productpage-v1.default -o yaml`, v.name),
		Args:              cobra.ExactArgs(1),
		RunE:              verb(func(args []string) error { return a.proxyConfig(v, args[0], output) }),
		ValidArgsFunction: a.completeProxies,
	}
	formats := "table, json or yaml"
	standard := "table"
	if v.table == nil {
		formats, standard = "json or yaml", "json"
	}
	a.namespaced(c)
	c.Flags().StringVarP(&output, "output", "o", standard, formats)
	return c
}

func (a *app) proxyConfig(v view, name, output string) error {
	allowed := []string{"json", "yaml"}
	if v.table != nil {
		allowed = append(allowed, "table")
	}
	if err := oneOf("output", output, allowed...); err != nil {
		return err
	}
	mesh, err := a.target()
	if err != nil {
		return err
	}
	defer mesh.Close()
	proxies, err := mesh.proxies()
	if err != nil {
		return err
	}
	p, err := a.findProxy(proxies, name)
	if err != nil {
		return err
	}
	dump, err := mesh.admin(p.Proxy, v.path)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		return writeJSON(a.Stdout, v.values(dump))
	case "yaml":
		return writeYAML(a.Stdout, v.values(dump))
	}
	t := v.table(a, dump)
	return t.write(a.Stdout)
}

// clusters returns every cluster message of a dump.
func clusters(dump any) any {
	s := section(dump, "ClustersConfigDump")
	out := []any{}
	for _, c := range append(list(s, "static_clusters"), list(s, "dynamic_active_clusters")...) {
		out = append(out, at(c, "cluster"))
	}
	return out
}

func clusterTable(_ *app, dump any) table {
	t := table{header: []string{"SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"}}
	for _, c := range clusters(dump).([]any) {
		name := text(c, "name")
		row := []string{name, "-", "-", "-"}
		// direction|port|subset|host, as Istio names clusters
		if p := strings.Split(name, "|"); len(p) == 4 {
			row = []string{p[3], or(p[1], "-"), or(p[2], "-"), p[0]}
		}
		kind := or(text(c, "type"), or(text(c, "cluster_type", "name"), "STATIC"))
		t.add(append(row, kind, configObject(c, "destination-rule"))...)
	}
	sortRows(t.rows)
	return t
}

// endpointTable lists the hosts of /clusters?format=json.
func endpointTable(_ *app, dump any) table {
	t := table{header: []string{"ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"}}
	for _, c := range list(dump, "cluster_statuses") {
		for _, h := range list(c, "host_statuses") {
			host, port := address(at(h, "address"))
			if port != "" {
				host += ":" + port
			}
			status := or(text(h, "health_status", "eds_health_status"), "HEALTHY")
			outlier := "OK"
			if text(h, "health_status", "failed_outlier_check") == "true" {
				outlier = "FAILED"
			}
			if text(h, "health_status", "failed_active_health_check") == "true" {
				status = "UNHEALTHY"
			}
			t.add(host, status, outlier, text(c, "name"))
		}
	}
	sortRows(t.rows)
	return t
}

func sortRows(rows [][]string) { slices.SortStableFunc(rows, slices.Compare) }

// secretTable lists certificates and roots. A secret with several certificates
// is shown by its first, as istioctl does.
func secretTable(a *app, dump any) table {
	t := table{header: []string{"RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"}}
	s := section(dump, "SecretsConfigDump")
	for _, group := range []struct{ field, status string }{
		{"static_secrets", "ACTIVE"}, {"dynamic_active_secrets", "ACTIVE"}, {"dynamic_warming_secrets", "WARMING"},
	} {
		for _, e := range list(s, group.field) {
			secret := at(e, "secret")
			kind, source := "Cert Chain", at(secret, "tls_certificate", "certificate_chain")
			if source == nil {
				kind, source = "CA", at(secret, "validation_context", "trusted_ca")
			}
			row := []string{or(text(e, "name"), text(secret, "name")), kind, group.status, "false", "", "", ""}
			if c := certificate(source); c != nil {
				now := a.Now()
				valid := now.Before(c.NotAfter) && !now.Before(c.NotBefore)
				row = []string{
					row[0], kind, group.status, fmt.Sprint(valid), fmt.Sprintf("%x", c.SerialNumber),
					c.NotAfter.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339),
				}
			}
			t.add(row...)
		}
	}
	return t
}

// certificate reads the first certificate of an inline data source.
func certificate(source any) *x509.Certificate {
	b := []byte(text(source, "inline_string"))
	if enc := text(source, "inline_bytes"); enc != "" {
		var err error
		if b, err = base64.StdEncoding.DecodeString(enc); err != nil {
			return nil
		}
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return c
}
