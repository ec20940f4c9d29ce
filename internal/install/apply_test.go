// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func plan(t *testing.T, o Options) *Plan {
	t.Helper()
	o.Version = "1.2.3"
	p, err := NewPlan(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func object(apiVersion, kind, namespace, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	for k, v := range fields {
		o.Object[k] = v
	}
	o.SetName(name)
	o.SetNamespace(namespace)
	return o
}

// TestApplyOrder: each step begins when what it needs works.
func TestApplyOrder(t *testing.T) {
	f := newFake()
	if err := plan(t, Options{}).Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	order := []string{
		"create namespaces/istio-system",
		"apply serviceaccounts/istiod",
		"apply clusterroles/istiod-clusterrole-istio-system",
		"apply deployments/istiod",
		"ready deployments/istiod",
		"apply mutatingwebhookconfigurations/istio-sidecar-injector",
		"ready mutatingwebhookconfigurations/istio-sidecar-injector",
		"apply deployments/istio-ingressgateway",
		"ready deployments/istio-ingressgateway",
	}
	last := -1
	for _, line := range order {
		i := f.at(t, line)
		if i < last {
			t.Errorf("%q came too early:\n%s", line, strings.Join(f.log, "\n"))
		}
		last = i
	}
	for _, want := range []string{"- waiting for istiod: 0 of 1 replicas updated", "✔ Control plane installed", "✔ Ingress gateway installed", "✔ Installation complete"} {
		if !strings.Contains(f.progress.String(), want) {
			t.Errorf("no %q in:\n%s", want, f.progress.String())
		}
	}
}

// TestApplyPrunes: what a profile no longer has goes; what is not ours, of
// another revision or in another namespace stays.
func TestApplyPrunes(t *testing.T) {
	labels := func(owner, rev string) map[string]any {
		return map[string]any{"metadata": map[string]any{"labels": map[string]any{OwnerLabel: owner, revLabel: rev}}}
	}
	f := newFake(
		object("v1", "Service", "istio-system", "ours-of-old", labels(Owner, "default")),
		object("v1", "Service", "istio-system", "of-another", labels("else", "default")),
		object("v1", "Service", "istio-system", "of-canary", labels(Owner, "canary")),
		object("v1", "Service", "other", "elsewhere", labels(Owner, "default")),
	)
	if err := plan(t, Options{Set: []string{"profile=demo"}}).Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	if err := plan(t, Options{Set: []string{"profile=minimal"}}).Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	list, err := f.Resource(resource("", "v1", "services")).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list.Items {
		got = append(got, s.GetName())
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"elsewhere", "istiod", "of-another", "of-canary"}, got); diff != "" {
		t.Error(diff)
	}
	// Webhooks go before the workloads they call, in a removal as in an uninstall.
	f.at(t, "delete deployments/istio-egressgateway")
}

// TestApplyExplains: a control plane that does not start is reported with its
// pod's state, events and log, and no gateway is applied.
func TestApplyExplains(t *testing.T) {
	pod := object("v1", "Pod", "istio-system", "istiod-1", map[string]any{"status": map[string]any{
		"phase": "Running",
		"containerStatuses": []any{map[string]any{
			"name": "discovery", "ready": false, "restartCount": int64(3),
			"state": map[string]any{"waiting": map[string]any{"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
		}},
	}})
	pod.SetLabels(map[string]string{"app": "istiod", revLabel: "default"})
	event := object("v1", "Event", "istio-system", "e1", map[string]any{
		"type": "Warning", "reason": "BackOff", "message": "restarting failed container",
		"involvedObject": map[string]any{"name": "istiod-1"},
	})
	f := newFake(pod, event)
	ctx, cancel := context.WithCancel(t.Context())
	f.stuck, f.onStuck = map[string]bool{"istiod": true}, cancel
	c := f.cluster()
	c.Logs = func(_ context.Context, ns, pod, container string, _ int64) (string, error) {
		return "cannot listen on " + ns + "/" + pod + "/" + container + "\n", nil
	}
	err := plan(t, Options{}).Apply(ctx, c)
	var failure *Failure
	if !errors.As(err, &failure) || !failure.TimedOut() {
		t.Fatalf("%v", err)
	}
	text := err.Error() + "\n" + strings.Join(failure.Details, "\n") + "\n" + strings.Join(failure.Commands, "\n")
	for _, want := range []string{
		"Deployment/istio-system/istiod", "0 of 1 replicas updated",
		"pod istiod-1: container discovery is waiting: CrashLoopBackOff: back-off 10s",
		"event BackOff: restarting failed container",
		"cannot listen on istio-system/istiod-1/discovery",
		"kubectl logs istiod-1 -n istio-system -c discovery",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if slices.Contains(f.log, "apply deployments/istio-ingressgateway") {
		t.Error("the gateway was applied without a control plane")
	}
}

func TestNamespaceInDeletion(t *testing.T) {
	ns := object("v1", "Namespace", "", "istio-system", nil)
	now := metav1.Now()
	ns.SetDeletionTimestamp(&now)
	err := plan(t, Options{}).Apply(t.Context(), newFake(ns).cluster())
	if err == nil || !strings.Contains(err.Error(), "being deleted") {
		t.Error(err)
	}
}

func installed(t *testing.T, extra ...*unstructured.Unstructured) *fakeCluster {
	t.Helper()
	f := newFake()
	if err := plan(t, Options{Set: []string{"profile=demo"}}).Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	for _, o := range extra {
		if err := f.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	f.log = nil
	return f
}

func runtimeObjects() []*unstructured.Unstructured {
	return []*unstructured.Unstructured{
		object("v1", "ConfigMap", "default", "istio-ca-root-cert", nil),
		object("v1", "ConfigMap", "shop", "istio-ca-root-cert", nil),
		object("v1", "ConfigMap", "shop", "theirs", nil),
		object("v1", "Secret", "istio-system", "istio-ca-secret", nil),
		object("v1", "Secret", "istio-system", "their-credential", nil),
		object("coordination.k8s.io/v1", "Lease", "istio-system", "istio-leader", nil),
		object("gateway.networking.k8s.io/v1", "GatewayClass", "", "istio", map[string]any{"spec": map[string]any{"controllerName": "istio.io/gateway-controller"}}),
	}
}

// left names everything that the fake still has.
func (f *fakeCluster) left(t *testing.T) []string {
	t.Helper()
	out := []string{}
	all := []struct{ kind }{}
	for _, k := range kinds {
		all = append(all, struct{ kind }{k})
	}
	for _, r := range []kind{{secrets, "Secret", true, 0}, {leases, "Lease", true, 0}, {gatewayClasses, "GatewayClass", false, 0}, {namespaces, "Namespace", false, 0}} {
		all = append(all, struct{ kind }{r})
	}
	for _, k := range all {
		list, err := f.Resource(k.GroupVersionResource).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			list.Items[i].SetGroupVersionKind(k.gvk())
			out = append(out, Describe(&list.Items[i]))
		}
	}
	slices.Sort(out)
	return out
}

func TestPurge(t *testing.T) {
	f := installed(t, runtimeObjects()...)
	r, err := FindInstalled(t.Context(), f.cluster(), RemoveOptions{Namespace: "istio-system", Purge: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	want := []string{"ConfigMap/shop/theirs", "Namespace/istio-system", "Secret/istio-system/their-credential"}
	if diff := cmp.Diff(want, f.left(t)); diff != "" {
		t.Errorf("after the purge (-want +got):\n%s", diff)
	}
	if f.at(t, "delete mutatingwebhookconfigurations/istio-sidecar-injector") > f.at(t, "delete deployments/istiod") {
		t.Error("the injector went before its webhook")
	}
	if f.at(t, "delete deployments/istiod") > f.at(t, "delete configmaps/istio-ca-root-cert") {
		t.Error("the root certificates went while the control plane could put them back")
	}
}

// TestUninstall: without --purge the CA's key, and what users wrote, stay.
func TestUninstall(t *testing.T) {
	f := installed(t, runtimeObjects()...)
	r, err := FindInstalled(t.Context(), f.cluster(), RemoveOptions{Namespace: "istio-system"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(f.left(t), func(s string) bool { return strings.HasPrefix(s, "CustomResourceDefinition/") })
	want := []string{"ConfigMap/shop/theirs", "GatewayClass/istio", "Lease/istio-system/istio-leader", "Namespace/istio-system", "Secret/istio-system/istio-ca-secret", "Secret/istio-system/their-credential"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the uninstall (-want +got):\n%s", diff)
	}
}

// TestUninstallRevision leaves the other control plane and what they share.
func TestUninstallRevision(t *testing.T) {
	f := installed(t, runtimeObjects()...)
	canary := plan(t, Options{Revision: "canary", Set: []string{"profile=minimal"}})
	if err := canary.Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	before := len(f.left(t))
	r, err := FindInstalled(t.Context(), f.cluster(), RemoveOptions{Namespace: "istio-system", Revision: "canary"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(t.Context(), f.cluster()); err != nil {
		t.Fatal(err)
	}
	left := f.left(t)
	if !slices.Contains(left, "Deployment/istio-system/istiod") || slices.Contains(left, "Deployment/istio-system/istiod-canary") || !slices.Contains(left, "ConfigMap/shop/istio-ca-root-cert") {
		t.Errorf("%d of %d objects are left:\n%s", len(left), before, strings.Join(left, "\n"))
	}
}

func TestUninstallOfHelm(t *testing.T) {
	f := installed(t)
	d, err := f.Resource(deployments).Namespace("istio-system").Get(t.Context(), "istiod", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.SetAnnotations(map[string]string{"meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "istio-system"})
	if err := f.Tracker().Update(deployments, d, "istio-system"); err != nil {
		t.Fatal(err)
	}
	_, err = FindInstalled(t.Context(), f.cluster(), RemoveOptions{Namespace: "istio-system"})
	if !errors.Is(err, ErrHelm) || !strings.Contains(err.Error(), "helm uninstall mesh -n istio-system") {
		t.Error(err)
	}
}
