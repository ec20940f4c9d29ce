// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/deploy"
	"github.com/lateen-mesh/lateen/test/bench/kubernetes/population"
)

const systemNamespace = "istio-system"

// startCluster fills the cluster of the kubeconfig with services and starts
// lateend on it, as a process of this machine. Everything it makes but the
// definitions and what lateend itself keeps in istio-system is removed by stop.
func startCluster(p *plan, dir string) (*server, error) {
	ctx := context.Background()
	cfg, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("-kubeconfig: %w", err)
	}
	if err := prepare(ctx, cfg); err != nil {
		return nil, err
	}
	pop, err := population.Create(ctx, cfg, population.Size{Services: p.services, Endpoints: p.endpoints, Namespaces: p.namespaces})
	if err != nil {
		return nil, err
	}
	remove := func() {
		if err := pop.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, "controlplane:", err)
		}
	}
	if err := pop.CreateRoute(ctx); err != nil {
		remove()
		return nil, err
	}
	args := []string{"--kubernetes", "--kubeconfig", p.kubeconfig}
	for _, flag := range []string{"--webhook-address", "--ready-address", "--api-address"} {
		a, err := freeAddress()
		if err != nil {
			remove()
			return nil, err
		}
		args = append(args, flag, a)
	}
	s, err := launch(p, dir, args, "POD_NAMESPACE="+systemNamespace, "POD_NAME=istiod-bench")
	if err != nil {
		remove()
		return nil, err
	}
	s.what, s.cleanup = "lateend on a Kubernetes API server", remove
	s.changeEndpoint = func(n int) error { return pop.ChangeEndpoint(ctx, n) }
	s.changeRoute = func(n int) error { return pop.ChangeRoute(ctx, n) }
	return s, nil
}

// prepare makes what a control plane finds in every cluster that it was
// installed in. One that runs would share the work, and its webhooks refuse.
func prepare(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if d, err := client.AppsV1().Deployments(systemNamespace).Get(ctx, "istiod", metav1.GetOptions{}); err == nil {
		return fmt.Errorf("%s/%s runs in this cluster: lateen uninstall --purge", d.Namespace, d.Name)
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return define(ctx, cfg)
}

// define makes Istio's custom resource definitions and waits until they are served.
func define(ctx context.Context, cfg *rest.Config) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	return fs.WalkDir(deploy.CRDs(), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(deploy.CRDs(), file)
		if err != nil {
			return err
		}
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(b, &o.Object); err != nil {
			return err
		}
		if _, err := definitions.Apply(ctx, o.GetName(), &o, metav1.ApplyOptions{FieldManager: "lateen-bench", Force: true}); err != nil {
			return err
		}
		plural, group, _ := strings.Cut(o.GetName(), ".")
		kind := schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}
		if versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions"); len(versions) > 0 {
			kind.Version, _, _ = unstructured.NestedString(versions[0].(map[string]any), "name")
		}
		for {
			if _, err = client.Resource(kind).List(ctx, metav1.ListOptions{Limit: 1}); !apierrors.IsNotFound(err) {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not served: %w", o.GetName(), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}
