// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
	"github.com/lateen-mesh/lateen/internal/config/kube/apitest"
	"github.com/lateen-mesh/lateen/internal/config/storetest"
)

const vsPath = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"

func virtualService(name, host string) apitest.Object {
	return apitest.Object{"kind": "VirtualService", "metadata": apitest.Object{"name": name}, "spec": apitest.Object{
		"hosts": []any{name}, "http": []any{apitest.Object{"route": []any{apitest.Object{"destination": apitest.Object{"host": host}}}}}}}
}

func namespace(name string, labels apitest.Object) apitest.Object {
	return apitest.Object{"kind": "Namespace", "metadata": apitest.Object{"name": name, "labels": labels}}
}

func service(name string) apitest.Object {
	return apitest.Object{"kind": "Service", "metadata": apitest.Object{"name": name}, "spec": apitest.Object{
		"clusterIP": "10.0.0.1", "ports": []any{apitest.Object{"name": "http", "port": 80, "targetPort": "web"}}}}
}

// follower keeps what a watcher of the store knows.
type follower struct {
	t     *testing.T
	c     <-chan config.Batch
	state map[string]*config.Object
}

func follow(t *testing.T, s config.Store) *follower {
	f := &follower{t, s.Watch(t.Context()), map[string]*config.Object{}}
	f.next()
	return f
}

func (f *follower) next() {
	f.t.Helper()
	for _, e := range storetest.Next(f.t, f.c).Events {
		if e.Object == nil {
			delete(f.state, e.Key.String())
		} else {
			f.state[e.Key.String()] = e.Object
		}
	}
}

// until reads batches until the keys are those.
func (f *follower) until(keys ...string) {
	f.t.Helper()
	slices.Sort(keys)
	for {
		var have []string
		for k := range f.state {
			have = append(have, k)
		}
		slices.Sort(have)
		if slices.Equal(have, keys) {
			return
		}
		f.next() // fails the test when nothing more comes
	}
}

// TestClusterAndConfig reads a cluster's own objects beside the user's.
func TestClusterAndConfig(t *testing.T) {
	api := defined(t)
	api.Put("/api/v1/namespaces", namespace("default", nil))
	api.Put("/api/v1/namespaces/default/services", service("reviews"))
	api.Put("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
		apitest.Object{"kind": "EndpointSlice", "addressType": "IPv4",
			"metadata":  apitest.Object{"name": "reviews-1", "labels": apitest.Object{"kubernetes.io/service-name": "reviews"}},
			"ports":     []any{apitest.Object{"name": "http", "port": 9080}},
			"endpoints": []any{apitest.Object{"addresses": []any{"10.1.0.1"}, "conditions": apitest.Object{"ready": true}, "targetRef": apitest.Object{"kind": "Pod", "name": "p"}}}},
		apitest.Object{"kind": "EndpointSlice", "addressType": "IPv4", "metadata": apitest.Object{"name": "stray"}})
	api.Put("/api/v1/namespaces/istio-system/configmaps",
		apitest.Object{"kind": "ConfigMap", "metadata": apitest.Object{"name": "istio"}, "data": apitest.Object{"mesh": "accessLogFile: /dev/stdout\n"}},
		apitest.Object{"kind": "ConfigMap", "metadata": apitest.Object{"name": "other"}, "data": apitest.Object{"mesh": "nonsense"}})
	api.Put("/api/v1/namespaces/default/secrets",
		apitest.Object{"kind": "Secret", "type": "kubernetes.io/tls", "metadata": apitest.Object{"name": "tls"}, "data": apitest.Object{"tls.crt": "YQ==", "tls.key": "YQ=="}},
		apitest.Object{"kind": "Secret", "type": "Opaque", "metadata": apitest.Object{"name": "password"}, "data": apitest.Object{"password": "YQ=="}},
		apitest.Object{"kind": "Secret", "type": "kubernetes.io/service-account-token", "metadata": apitest.Object{"name": "token"}, "data": apitest.Object{"ca.crt": "YQ=="}})
	api.Put(vsPath, virtualService("reviews", "reviews"))
	s := open(t, api)
	f := follow(t, s)
	f.until("Namespace//default", "Service/default/reviews", "EndpointSlice/default/reviews-1", "MeshConfig/istio-system/istio", "Secret/default/tls", "VirtualService/default/reviews")
	want := &k8s.EndpointSlice{Service: "reviews", AddressType: "IPv4", Ports: []k8s.EndpointPort{{Name: "http", Number: 9080, Protocol: "TCP"}},
		Endpoints: []k8s.Endpoint{{Addresses: []string{"10.1.0.1"}, Ready: true, Serving: true, Pod: "p"}}}
	if diff := cmp.Diff(want, f.state["EndpointSlice/default/reviews-1"].Spec); diff != "" {
		t.Error(diff)
	}
	if m := f.state["MeshConfig/istio-system/istio"].Spec.(*meshv1alpha1.MeshConfig); m.AccessLogFile != "/dev/stdout" || m.ProxyListenPort != 15001 {
		t.Errorf("the mesh configuration is not the user's over the defaults: %v", m)
	}
	if _, err := s.Apply(t.Context(), f.state["Service/default/reviews"]); err == nil {
		t.Error("a Service can be applied")
	}
	api.Remove("/api/v1/namespaces/default/services/reviews")
	f.until("Namespace//default", "EndpointSlice/default/reviews-1", "MeshConfig/istio-system/istio", "Secret/default/tls", "VirtualService/default/reviews")
}

// TestBadObjectKeepsLastGood stores what does not validate, by a client that
// got past the webhook.
func TestBadObjectKeepsLastGood(t *testing.T) {
	api := defined(t)
	api.Put(vsPath, virtualService("reviews", "v1"))
	s := open(t, api)
	f := follow(t, s)
	reports := s.Reports(t.Context())
	<-reports
	bad := virtualService("reviews", "v2")
	bad["spec"].(apitest.Object)["htpp"] = []any{}
	api.Put(vsPath, bad, virtualService("marker", "x"))
	f.until("VirtualService/default/reviews", "VirtualService/default/marker")
	if o := f.state["VirtualService/default/reviews"]; o.Generation != 1 {
		t.Errorf("generation %d is in force", o.Generation)
	}
	if p := s.Problems(); len(p) != 1 || p[0].Field != "spec.htpp" || !strings.Contains(p[0].Fix, `"http"`) {
		t.Errorf("problems: %v", p)
	}
	for {
		batch := <-reports
		if i := slices.IndexFunc(batch, func(r *kubeReport) bool { return r.Key.Name == "reviews" }); i >= 0 {
			if r := batch[i]; !r.Refused || r.Generation != 2 {
				t.Errorf("report: %+v", r)
			}
			break
		}
	}
	api.Put(vsPath, virtualService("reviews", "v3"))
	f.next()
	if o := f.state["VirtualService/default/reviews"]; o.Generation != 3 || len(s.Problems()) != 0 {
		t.Errorf("after the repair generation %d is in force, problems %v", o.Generation, s.Problems())
	}
	// A status that is written is no change of configuration.
	written := virtualService("reviews", "v3")
	written["status"] = apitest.Object{"observedGeneration": 3}
	api.Put(vsPath, written)
	api.Put(vsPath, virtualService("marker", "y"))
	if b := storetest.Next(t, f.c); len(b.Events) != 1 || b.Events[0].Key.Name != "marker" {
		t.Errorf("a status is a change: %v", b.Events)
	}
}

// TestDefinitionComesAndGoes starts without a kind, which is no error.
func TestDefinitionComesAndGoes(t *testing.T) {
	api := apitest.New(t)
	s := open(t, api)
	f := follow(t, s)
	if _, err := s.Apply(t.Context(), storetest.VirtualService(t, "default", "reviews", "v1")); err == nil || !strings.Contains(err.Error(), "CustomResourceDefinition") {
		t.Errorf("apply of a kind that the cluster does not know: %v", err)
	}
	api.Define("virtualservices", "networking.istio.io", "v1beta1", "v1alpha3")
	api.Put("/apis/networking.istio.io/v1beta1/namespaces/default/virtualservices", virtualService("reviews", "v1"))
	f.until("VirtualService/default/reviews")
	if o := f.state["VirtualService/default/reviews"]; o.APIVersion != "networking.istio.io/v1beta1" {
		t.Errorf("it is read as %s", o.APIVersion)
	}
	api.Remove("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/virtualservices.networking.istio.io")
	f.until()
}

// TestDiscoverySelectors hides namespaces, and shows them when labels or
// selectors change.
func TestDiscoverySelectors(t *testing.T) {
	api := defined(t)
	mesh := func(text string) {
		api.Put("/api/v1/namespaces/istio-system/configmaps", apitest.Object{"kind": "ConfigMap", "metadata": apitest.Object{"name": "istio"}, "data": apitest.Object{"mesh": text}})
	}
	const selecting = "discoverySelectors:\n- matchLabels: {mesh: \"yes\"}\n- matchExpressions: [{key: env, operator: In, values: [prod]}]\n"
	mesh(selecting)
	api.Put("/api/v1/namespaces", namespace("istio-system", nil), namespace("in", apitest.Object{"env": "prod"}), namespace("out", nil))
	for _, ns := range []string{"istio-system", "in", "out"} {
		api.Put("/api/v1/namespaces/"+ns+"/services", service("web"))
	}
	s := open(t, api)
	f := follow(t, s)
	always := []string{"MeshConfig/istio-system/istio", "Namespace//istio-system", "Service/istio-system/web", "Namespace//in", "Service/in/web"}
	out := append(slices.Clone(always), "Namespace//out", "Service/out/web")
	f.until(always...)
	if l, err := s.List(t.Context(), config.Service, ""); err != nil || len(l) != 2 {
		t.Errorf("%d services are listed, %v", len(l), err)
	}
	api.Put("/api/v1/namespaces", namespace("out", apitest.Object{"mesh": "yes"}))
	f.until(out...)
	api.Put("/api/v1/namespaces", namespace("out", nil))
	f.until(always...)
	mesh("{}")
	f.until(out...)
	mesh(selecting)
	f.until(always...)
	mesh("discoverySelectors: 5\n") // the last good one stays
	api.Remove("/api/v1/namespaces/in/services/web")
	f.until("MeshConfig/istio-system/istio", "Namespace//istio-system", "Service/istio-system/web", "Namespace//in")
}

// TestOutage takes the API server away: nothing is deleted, and what changed
// meanwhile is found when it is back.
func TestOutage(t *testing.T) {
	api := defined(t)
	api.Put(vsPath, virtualService("one", "x"), virtualService("two", "x"))
	s := open(t, api)
	f := follow(t, s)
	f.until("VirtualService/default/one", "VirtualService/default/two")
	api.Away(true)
	api.Remove(vsPath + "/one")
	api.Put(vsPath, virtualService("three", "x"))
	if l, err := s.List(t.Context(), config.VirtualService, ""); err != nil || len(l) != 2 {
		t.Errorf("during the outage %d objects, %v", len(l), err)
	}
	api.Away(false)
	f.until("VirtualService/default/three", "VirtualService/default/two")
}
