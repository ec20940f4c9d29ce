// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/netns"
)

// api is the cluster's API server, asked from inside the first node.
type api struct {
	server string
	client *http.Client
}

func (s *State) api() (*api, error) {
	pair, err := tls.LoadX509KeyPair(s.path("pki", "admin.crt"), s.path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	roots, err := os.ReadFile(s.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &api{server: s.Server(), client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:     netns.Dial(netns.Path(s.Nodes[0].NetNS)),
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool},
	}}}, nil
}

func (a *api) close() { a.client.CloseIdleConnections() }

// do sends in, unless it is nil, and decodes the answer into out, unless that is nil.
func (a *api) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.server+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &statusError{resp.StatusCode, fmt.Sprintf("%s %s: %s: %.300s", method, path, resp.Status, b)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

// create makes object, or leaves the one that is there.
func (a *api) create(ctx context.Context, path string, object any) error {
	err := a.do(ctx, http.MethodPost, path, object, nil)
	if e := new(statusError); errors.As(err, &e) && e.code == http.StatusConflict {
		return nil
	}
	return err
}

func (a *api) nodeReady(ctx context.Context, name string) bool {
	var n struct {
		Status struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if a.do(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &n) != nil {
		return false
	}
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

type object = map[string]any

// addons creates what stands in the cluster for the lab's own processes: the
// Services of the name server and of the metrics server.
func (s *State) addons(ctx context.Context, a *api) error {
	ca, err := os.ReadFile(s.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	port := func(name, protocol string, port, target int) object {
		return object{"name": name, "protocol": protocol, "port": port, "targetPort": target}
	}
	services := []struct {
		name, app, ip string
		ports         []object
	}{
		{"kube-dns", "kube-dns", DNS.String(), []object{port("dns", "UDP", 53, 53), port("dns-tcp", "TCP", 53, 53)}},
		{"metrics-server", "metrics-server", "", []object{port("https", "TCP", 443, 4443)}},
	}
	var errs []error
	const base = "/namespaces/kube-system/"
	for _, v := range services {
		labels := object{"k8s-app": v.app, "app.kubernetes.io/managed-by": "lateen-lab"}
		spec := object{"ports": v.ports}
		if v.ip != "" {
			spec["clusterIP"] = v.ip
		}
		var ports []object
		for _, p := range v.ports {
			ports = append(ports, object{"name": p["name"], "protocol": p["protocol"], "port": p["targetPort"]})
		}
		errs = append(errs,
			a.create(ctx, "/api/v1"+base+"services", object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": v.name, "labels": labels}, "spec": spec}),
			a.create(ctx, "/apis/discovery.k8s.io/v1"+base+"endpointslices", object{
				"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
				"metadata":  object{"name": v.name, "labels": object{"kubernetes.io/service-name": v.name, "endpointslice.kubernetes.io/managed-by": "lateen-lab"}},
				"endpoints": []object{{"addresses": []string{s.Nodes[0].Address.String()}, "conditions": object{"ready": true}}},
				"ports":     ports,
			}))
	}
	errs = append(errs, a.create(ctx, "/apis/apiregistration.k8s.io/v1/apiservices", object{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": object{"name": "v1beta1.metrics.k8s.io"},
		"spec": object{
			"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
			"service": object{"name": "metrics-server", "namespace": "kube-system"}, "caBundle": base64.StdEncoding.EncodeToString(ca),
		},
	}))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("objects of the lab: %w", err)
	}
	return nil
}

// resolves tells whether name has an address for the programs of a node.
func (s *State) resolves(ctx context.Context, n Node, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	dial := netns.Dial(netns.Path(n.NetNS))
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, net.JoinHostPort(DNS.String(), "53"))
	}}
	addresses, err := r.LookupHost(ctx, name)
	return err == nil && len(addresses) > 0
}
