// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/deploy"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/kube"
	"github.com/lateen-mesh/lateen/internal/config/storetest"
)

// TestRealServer holds the store to its contract against the API server of
// the kubeconfig that LATEEN_TEST_KUBECONFIG names, such as the lab's. It
// installs the definitions and deletes every VirtualService there.
func TestRealServer(t *testing.T) {
	file := os.Getenv("LATEEN_TEST_KUBECONFIG")
	if file == "" {
		t.Skip("LATEEN_TEST_KUBECONFIG is not set: name a kubeconfig of a cluster for tests")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	err = fs.WalkDir(deploy.CRDs(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(deploy.CRDs(), p)
		if err != nil {
			return err
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(b, &u.Object); err != nil {
			return err
		}
		_, err = crds.Create(t.Context(), u, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"a", "b", "default"} {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": ns}}}
		if _, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(t.Context(), u, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	storetest.Run(t, func(t *testing.T) config.Store {
		s, err := kube.Open(t.Context(), kube.Options{Config: cfg, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		<-s.Synced()
		old, err := s.List(t.Context(), config.VirtualService, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range old {
			if err := s.Delete(t.Context(), o.Key, ""); err != nil {
				t.Fatal(err)
			}
		}
		return onlyWritten{s}
	})
}

// onlyWritten hides what a cluster has of its own, which the contract's tests
// do not expect.
type onlyWritten struct{ *kube.Store }

func (s onlyWritten) List(ctx context.Context, kind *config.Kind, namespace string) ([]*config.Object, error) {
	if kind == nil {
		kind = config.VirtualService
	}
	return s.Store.List(ctx, kind, namespace)
}

func (s onlyWritten) Watch(ctx context.Context) <-chan config.Batch {
	out := make(chan config.Batch)
	in := s.Store.Watch(ctx)
	go func() {
		defer close(out)
		for b := range in {
			b.Events = slices.DeleteFunc(b.Events, func(e config.Event) bool { return e.Key.Kind != config.VirtualService })
			if len(b.Events) == 0 && !b.Initial {
				continue
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
