// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/install"
)

var update = flag.Bool("update", false, "rewrite the goldens")

var now = time.Date(2026, 11, 20, 15, 0, 0, 0, time.UTC)

func certificate(t *testing.T, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: now.Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func meta(namespace, name string, labels ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}}
	for i := 0; i+1 < len(labels); i += 2 {
		m.Labels[labels[i]] = labels[i+1]
	}
	return m
}

// healthy is a cluster with a mesh that is well.
func healthy(t *testing.T) []runtime.Object {
	ca := certificate(t, now.Add(1000*time.Hour))
	const ns = "istio-system"
	hook := admissionv1.WebhookClientConfig{CABundle: ca}
	return []runtime.Object{
		&corev1.Node{ObjectMeta: meta("", "node1"), Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			NodeInfo:   corev1.NodeSystemInfo{KernelVersion: "6.1.0-18-amd64"},
		}},
		&corev1.Namespace{ObjectMeta: meta("", "shop", "istio-injection", "enabled")},
		&appsv1.Deployment{ObjectMeta: meta(ns, "istiod", "app", "istiod", install.OwnerLabel, install.Owner)},
		&corev1.Pod{ObjectMeta: meta(ns, "istiod-1", "app", "istiod"), Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}},
		&corev1.ConfigMap{ObjectMeta: meta(ns, "istio"), Data: map[string]string{"mesh": "accessLogFile: /dev/stdout\n"}},
		&corev1.ConfigMap{ObjectMeta: meta(ns, "istio-ca-root-cert"), Data: map[string]string{"root-cert.pem": string(ca)}},
		&corev1.ConfigMap{ObjectMeta: meta("shop", "istio-ca-root-cert"), Data: map[string]string{"root-cert.pem": string(ca)}},
		&corev1.Secret{ObjectMeta: meta(ns, "istio-ca-secret"), Data: map[string][]byte{"ca-cert.pem": ca}},
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: meta("", "istio-sidecar-injector", "app", "sidecar-injector", install.OwnerLabel, install.Owner),
			Webhooks: []admissionv1.MutatingWebhook{{Name: "namespace.sidecar-injector.istio.io", ClientConfig: hook}}},
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: meta("", "istio-validator-istio-system", install.OwnerLabel, install.Owner),
			Webhooks: []admissionv1.ValidatingWebhook{{Name: "rev.validation.istio.io", ClientConfig: hook}}},
	}
}

// sick is the same one with something wrong in every category.
func sick(t *testing.T) []runtime.Object {
	objects := healthy(t)
	for _, o := range objects {
		switch x := o.(type) {
		case *corev1.Pod:
			x.Status.Conditions[0].Status = corev1.ConditionFalse
		case *corev1.ConfigMap:
			switch {
			case x.Name == "istio":
				x.Data["mesh"] = "accesLogFile: /dev/stdout\n"
			case x.Namespace == "shop":
				x.Data["root-cert.pem"] = "another"
			}
		case *corev1.Secret:
			x.Data["ca-cert.pem"] = certificate(t, now.Add(-time.Minute))
		case *admissionv1.MutatingWebhookConfiguration:
			x.Webhooks[0].ClientConfig.CABundle = nil
		case *admissionv1.ValidatingWebhookConfiguration:
			x.Webhooks[0].ClientConfig.CABundle = certificate(t, now.Add(24*time.Hour))
		}
	}
	return append(objects,
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: meta("", "other-injector", "app", "sidecar-injector")},
		&appsv1.Deployment{ObjectMeta: meta("istio-system", "istio-ingressgateway", "istio", "ingressgateway", install.OwnerLabel, install.Owner)},
		&corev1.Service{ObjectMeta: meta("istio-system", "istio-ingressgateway", install.OwnerLabel, install.Owner), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}},
	)
}

func env(objects []runtime.Object, kubernetes string, allowed bool, crds ...string) Env {
	typed := fake.NewClientset(objects...)
	typed.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: kubernetes}
	typed.PrependReactor("create", "selfsubjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authv1.SelfSubjectAccessReview)
		r.Status.Allowed = allowed || r.Spec.ResourceAttributes.Resource != "clusterroles"
		return true, r, nil
	})
	dynamic := fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{definitions: "CustomResourceDefinitionList"})
	for _, name := range crds {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}}
		o.SetName(name)
		_ = dynamic.Tracker().Create(definitions, o, "")
	}
	return Env{Typed: typed, Dynamic: dynamic, Namespace: "istio-system", Version: "1.2.3", Now: func() time.Time { return now }}
}

func allCRDs() []string {
	out := []string{"gateways.gateway.networking.k8s.io"}
	for _, k := range config.Kinds() {
		out = append(out, k.Plural+"."+k.Group)
	}
	return out
}

func TestReports(t *testing.T) {
	var all bytes.Buffer
	show := func(title string, r Report, success bool) {
		all.WriteString("== " + title + "\n\n")
		_ = r.Write(&all, false)
		all.WriteString("\n")
		if r.Success != success {
			t.Errorf("%s: success is %v", title, r.Success)
		}
		for _, cat := range r.Categories {
			for _, c := range cat.Checks {
				if c.Result != Success && (c.Hint == "" || c.Error == "") {
					t.Errorf("%s: %s: no hint or no reason", title, c.Description)
				}
			}
		}
	}
	show("pre, ready", Run(t.Context(), env(healthy(t), "v1.36.3", true, "gateways.gateway.networking.k8s.io"), Pre()), true)
	show("pre, old cluster, another mesh, no permission", Run(t.Context(),
		env([]runtime.Object{&appsv1.Deployment{ObjectMeta: meta("istio-system", "istiod", "app", "istiod")}}, "v1.25.0", false, "gateways.networking.istio.io"), Pre()), false)

	e := env(healthy(t), "v1.36.3", true, allCRDs()...)
	e.Mesh = func(context.Context) (Mesh, error) {
		return Mesh{Planes: []Plane{{"istiod-1", "1.2.3"}}, Proxies: []Proxy{{Name: "web.shop", Version: "1.2.3", Identity: "spiffe://x"}}}, nil
	}
	show("installed, well", Run(t.Context(), e, Installed()), true)

	e = env(sick(t), "v1.36.3", true)
	e.Mesh = func(context.Context) (Mesh, error) {
		return Mesh{Planes: []Plane{{"istiod-1", "1.1.0"}}, Findings: []string{"LT0001 VirtualService/shop/x: bad"}, Proxies: []Proxy{
			{Name: "web.shop", Version: "1.0.0", Refused: []string{"LDS: no"}, Stale: []string{"CDS"}},
		}}, nil
	}
	show("installed, sick", Run(t.Context(), e, Installed()), false)

	e = env(healthy(t), "v1.36.3", true, allCRDs()...)
	e.Mesh = func(context.Context) (Mesh, error) { return Mesh{}, errors.New("403 Forbidden") }
	show("installed, no port-forward", Run(t.Context(), e, Installed()), false)

	show("not installed", Run(t.Context(), env(nil, "v1.36.3", true), Installed()), false)

	const file = "testdata/reports.txt"
	if *update {
		_ = os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(file, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), all.String()); diff != "" {
		t.Errorf("-golden +now:\n%s", diff)
	}
}

// TestJSON has the shape of linkerd check -o json.
func TestJSON(t *testing.T) {
	b, err := json.Marshal(Run(t.Context(), env(nil, "v1.36.3", true), Installed()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"success":false`, `"categoryName":"control-plane"`, `"result":"error"`, `"hint":"lateen install"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
}
