// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// store is the objects of a cluster as its store gives them.
type store struct {
	mu      sync.Mutex
	feed    config.Feed
	objects map[config.Key]*config.Object
	cluster *dynamicfake.FakeDynamicClient
}

func (s *store) Watch(ctx context.Context) <-chan config.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed.Watch(ctx, slices.Collect(maps.Values(s.objects)))
}

func (s *store) Status(k config.Key) (map[string]any, int64, bool) {
	u, err := s.cluster.Tracker().Get(resourceOf(k.Kind, "v1"), k.Namespace, k.Name)
	if err != nil {
		return nil, 0, false
	}
	o := u.(*unstructured.Unstructured)
	status, _ := o.Object["status"].(map[string]any)
	return status, o.GetGeneration(), true
}

func (s *store) put(objects ...*config.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []config.Event
	for _, o := range objects {
		s.objects[o.Key] = o
		events = append(events, config.Event{Key: o.Key, Object: o})
	}
	s.feed.Publish(events)
}

func (s *store) remove(k config.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, k)
	s.feed.Publish([]config.Event{{Key: k}})
}

// bench is a controller over client-go's fakes.
type bench struct {
	*store
	t     *testing.T
	typed *fake.Clientset
	mu    sync.Mutex
	log   []string
	text  bytes.Buffer
}

func newBench(t *testing.T, there ...runtime.Object) *bench {
	lists := map[schema.GroupVersionResource]string{
		definitions: "CustomResourceDefinitionList", resourceOf(config.GatewayClass, "v1"): "GatewayClassList",
		resourceOf(config.KubeGateway, "v1"): "GatewayList", resourceOf(config.HTTPRoute, "v1"): "HTTPRouteList",
	}
	for kind, r := range deployedResources {
		lists[r] = kind + "List"
	}
	b := &bench{t: t, typed: fake.NewClientset()}
	b.store = &store{objects: map[config.Key]*config.Object{}, cluster: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, there...)}
	b.cluster.PrependReactor("patch", "*", b.apply)
	b.cluster.PrependReactor("create", "*", b.record)
	b.cluster.PrependReactor("update", "*", b.record)
	return b
}

func (b *bench) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf(format, args...))
}

// taken returns what was written since the last time.
func (b *bench) taken() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.log
	b.log = nil
	slices.Sort(out)
	return out
}

// apply stands for a server-side apply: what is applied is what there is.
func (b *bench) apply(a k8stesting.Action) (bool, runtime.Object, error) {
	p := a.(k8stesting.PatchActionImpl)
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(p.GetPatch()); err != nil {
		return true, nil, err
	}
	b.note("apply %s/%s", p.GetResource().Resource, p.GetName())
	_, err := b.cluster.Tracker().Get(p.GetResource(), p.GetNamespace(), p.GetName())
	if apierrors.IsNotFound(err) {
		return true, o, b.cluster.Tracker().Create(p.GetResource(), o, p.GetNamespace())
	}
	return true, o, b.cluster.Tracker().Update(p.GetResource(), o, p.GetNamespace())
}

func (b *bench) record(a k8stesting.Action) (bool, runtime.Object, error) {
	o := a.(interface{ GetObject() runtime.Object }).GetObject().(*unstructured.Unstructured)
	b.note("%s %s/%s", strings.TrimSuffix(a.GetVerb()+" "+a.GetSubresource(), " "), a.GetResource().Resource, o.GetName())
	return false, nil, nil
}

func (b *bench) start() {
	c := &Controller{Client: b.typed, Dynamic: b.cluster, Objects: b.store, Log: slog.New(slog.NewTextHandler(&b.text, nil))}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	b.t.Cleanup(func() { cancel(); <-done })
	time.Sleep(time.Second) // of the bubble: informers poll until they have synced
	synctest.Wait()
}

// user writes YAML as a user does: to the cluster and, by it, to the store.
func (b *bench) user(text string) *config.Object {
	b.t.Helper()
	r := config.Decode([]byte(text), "user.yaml", config.DefaultNamespace)
	if err := config.Errors(r.Problems); err != nil || len(r.Objects) != 1 {
		b.t.Fatal(err)
	}
	o := r.Objects[0].Clone()
	o.Generation, o.CreationTimestamp = 1, time.Unix(1000, 0)
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		b.t.Fatal(err)
	}
	u.SetGeneration(1)
	u.SetUID("6f1b")
	u.SetNamespace(o.Namespace)
	gvr := resourceOf(o.Kind, "v1")
	if old, err := b.cluster.Tracker().Get(gvr, o.Namespace, o.Name); err != nil {
		if err := b.cluster.Tracker().Create(gvr, u, o.Namespace); err != nil {
			b.t.Fatal(err)
		}
	} else {
		u.Object["status"] = old.(*unstructured.Unstructured).Object["status"]
		if err := b.cluster.Tracker().Update(gvr, u, o.Namespace); err != nil {
			b.t.Fatal(err)
		}
	}
	b.put(o)
	return o
}

// conditions are those of an object's status, one line each.
func (b *bench) conditions(o *config.Object, of ...string) []string {
	b.t.Helper()
	status, _, ok := b.Status(o.Key)
	if !ok {
		b.t.Fatalf("%s is not there", o.Key)
	}
	if o.Kind != config.KubeGateway && o.Kind != config.GatewayClass {
		parents := list(status, "parents")
		if len(parents) == 0 {
			return nil
		}
		status = parents[len(parents)-1].(map[string]any)
	}
	var out []string
	for _, c := range list(status, "conditions") {
		m := c.(map[string]any)
		if len(of) == 0 || slices.Contains(of, m["type"].(string)) {
			out = append(out, fmt.Sprintf("%s=%s %s %s", m["type"], m["status"], m["reason"], m["lastTransitionTime"]))
		}
	}
	return out
}

const class = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio}
spec: {controllerName: istio.io/gateway-controller}
`

const bookinfo = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: bookinfo-gateway}
spec:
  gatewayClassName: istio
  listeners: [{name: http, port: 80, protocol: HTTP}]
`

func definition() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "gatewayclasses.gateway.networking.k8s.io"},
	}}
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", what, diff)
	}
}

// TestGatewayIsDeployed follows a Gateway from its class to its address.
func TestGatewayIsDeployed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		equal(t, "without the API", []string(nil), b.taken())

		if err := b.cluster.Tracker().Create(definitions, definition(), ""); err != nil {
			t.Fatal(err)
		}
		equal(t, "the API is defined", []string{"create gatewayclasses/istio"}, b.taken())

		c := b.user(class)
		gw := b.user(bookinfo)
		equal(t, "a Gateway", []string{
			"apply deployments/bookinfo-gateway-istio", "apply serviceaccounts/bookinfo-gateway-istio", "apply services/bookinfo-gateway-istio",
			"update status gatewayclasses/istio", "update status gateways/bookinfo-gateway",
		}, b.taken())
		equal(t, "class", []string{"Accepted=True Accepted 2000-01-01T00:00:01Z"}, b.conditions(c))
		equal(t, "before it has an address", []string{"Accepted=True Accepted 2000-01-01T00:00:01Z", "Programmed=False Pending 2000-01-01T00:00:01Z"}, b.conditions(gw))

		time.Sleep(time.Minute)
		b.put(&config.Object{Key: config.Key{Kind: config.Service, Namespace: "default", Name: "bookinfo-gateway-istio"}, Spec: &k8s.Service{Type: "LoadBalancer", Ingress: []string{"192.0.2.1"}}})
		equal(t, "an address", []string{"update status gateways/bookinfo-gateway"}, b.taken())
		equal(t, "no pod", []string{"Programmed=False NoResources 2000-01-01T00:00:01Z"}, b.conditions(gw, "Programmed"))

		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
			Name: "bookinfo-gateway-istio", Namespace: "default", Labels: map[string]string{managedLabel: managedBy, "gateway.networking.k8s.io/gateway-name": "bookinfo-gateway"},
		}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}
		if err := b.typed.Tracker().Add(d); err != nil {
			t.Fatal(err)
		}
		equal(t, "a pod", []string{"update status gateways/bookinfo-gateway"}, b.taken())
		equal(t, "served", []string{"Accepted=True Accepted 2000-01-01T00:00:01Z", "Programmed=True Programmed 2000-01-01T00:01:01Z"}, b.conditions(gw))

		b.put(b.objects[gw.Key])
		equal(t, "nothing new", []string{
			"apply deployments/bookinfo-gateway-istio", "apply serviceaccounts/bookinfo-gateway-istio", "apply services/bookinfo-gateway-istio",
		}, b.taken())

		if err := b.typed.Tracker().Delete(appsv1.SchemeGroupVersion.WithResource("deployments"), "default", d.Name); err != nil {
			t.Fatal(err)
		}
		got := b.taken()
		if !slices.Contains(got, "apply deployments/bookinfo-gateway-istio") {
			t.Errorf("what somebody deletes is not made again: %v", got)
		}
		b.remove(c.Key)
		equal(t, "the class is deleted", []string{"create gatewayclasses/istio"}, b.taken())
		if b.text.Len() > 0 && strings.Contains(b.text.String(), "WARN") {
			t.Error(b.text.String())
		}
	})
}

// TestServiceType: the annotation changes the Service, and not the pods.
func TestServiceType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		b.user(class)
		gw := b.user(bookinfo)
		b.taken()
		service := func() (kind string) {
			u, err := b.cluster.Tracker().Get(deployedResources["Service"], "default", "bookinfo-gateway-istio")
			if err != nil {
				t.Fatal(err)
			}
			kind, _, _ = unstructured.NestedString(u.(*unstructured.Unstructured).Object, "spec", "type")
			return kind
		}
		template := func() any {
			u, err := b.cluster.Tracker().Get(deployedResources["Deployment"], "default", "bookinfo-gateway-istio")
			if err != nil {
				t.Fatal(err)
			}
			v, _, _ := unstructured.NestedFieldCopy(u.(*unstructured.Unstructured).Object, "spec", "template")
			return v
		}
		before := template()
		equal(t, "default", "LoadBalancer", service())
		o := gw.Clone()
		o.Annotations = map[string]string{"networking.istio.io/service-type": "NodePort"}
		b.put(o)
		b.taken()
		equal(t, "annotated", "NodePort", service())
		equal(t, "pods", before, template())

		o = gw.Clone()
		o.Annotations = map[string]string{"networking.istio.io/service-type": "Magic"}
		b.put(o)
		b.taken()
		equal(t, "nonsense changes nothing", "NodePort", service())
		equal(t, "and is said", "Accepted=False InvalidParameters", strings.Join(strings.Fields(b.conditions(gw, "Accepted")[0])[:2], " "))
	})
}

// TestForeignObjects: what was not made for a Gateway is never written over.
func TestForeignObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "bookinfo-gateway-istio", "namespace": "default"},
		}}
		b := newBench(t, theirs)
		b.start()
		b.user(class)
		b.user(bookinfo)
		for _, line := range b.taken() {
			if strings.HasPrefix(line, "apply") {
				t.Error(line)
			}
		}
		if !strings.Contains(b.text.String(), "there is one that was not made for a Gateway") {
			t.Error(b.text.String())
		}
	})
}

// TestRouteStatus keeps what other controllers say of a route, and takes ours
// back when the route leaves.
func TestRouteStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		b.user(class)
		b.user(bookinfo)
		const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: bookinfo-gateway}]
  rules: [{backendRefs: [{name: productpage, port: 9080}]}]
status:
  parents:
  - {controllerName: example.com/other, parentRef: {name: theirs}, conditions: []}
`
		r := b.user(route)
		b.taken()
		equal(t, "no backend", []string{"Accepted=True Accepted 2000-01-01T00:00:01Z", "ResolvedRefs=False BackendNotFound 2000-01-01T00:00:01Z"}, b.conditions(r))
		time.Sleep(time.Hour)
		b.put(&config.Object{Key: config.Key{Kind: config.Service, Namespace: "default", Name: "productpage"}, Spec: &k8s.Service{Ports: []k8s.ServicePort{{Number: 9080}}}})
		b.taken()
		equal(t, "a backend", []string{"Accepted=True Accepted 2000-01-01T00:00:01Z", "ResolvedRefs=True ResolvedRefs 2000-01-01T01:00:01Z"}, b.conditions(r))

		b.user(strings.Replace(route, "bookinfo-gateway", "another", 1))
		b.taken()
		status, _, _ := b.Status(r.Key)
		j, err := json.Marshal(list(status, "parents"))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "left", `[{"conditions":[],"controllerName":"example.com/other","parentRef":{"name":"theirs"}}]`, string(j))
	})
}
