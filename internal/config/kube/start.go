// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Defined returns the kinds that users write to a cluster and that a
// CustomResourceDefinition defines there.
func Defined() []*config.Kind {
	return slices.DeleteFunc(slices.Clone(config.Kinds()), func(k *config.Kind) bool {
		return k == config.MeshConfig || k == config.LocalWorkload || k.Group == networkingv1.GroupName
	})
}

func (s *Store) start(ctx context.Context) {
	sources := append(s.clusterSources(), (&definitions{s: s, ctx: ctx}).source())
	for _, k := range []*config.Kind{config.Ingress, config.IngressClass} {
		sources = append(sources, s.objectSource(k, k.Versions[0]))
	}
	s.mu.Lock()
	for _, c := range sources {
		s.waiting[c.name] = true
		if c.kind != nil {
			s.sources[c.kind] = c
		}
	}
	s.mu.Unlock()
	for _, c := range sources {
		s.running.Go(func() { c.run(ctx) })
	}
}

// lister is what every typed client of client-go has.
type lister[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// typedSource watches one of Kubernetes' own kinds. narrow may restrict what is listed.
func typedSource[L runtime.Object, T runtime.Object](s *Store, kind *config.Kind, client lister[L], expected T, narrow func(*metav1.ListOptions), convert func(T) *config.Object) *source {
	if narrow == nil {
		narrow = func(*metav1.ListOptions) {}
	}
	return &source{
		store: s, name: kind.Plural, kind: kind, expected: expected, version: kind.Versions[0],
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return client.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			narrow(&o)
			return client.Watch(ctx, o)
		},
		key: func(m metav1.Object) config.Key {
			return config.Key{Kind: kind, Namespace: m.GetNamespace(), Name: m.GetName()}
		},
		read: func(raw any, _ *item) *item {
			o := convert(raw.(T))
			if o == nil {
				return nil
			}
			return &item{key: o.Key, object: o}
		},
	}
}

func (s *Store) clusterSources() []*source {
	core := s.clients.typed.CoreV1()
	return []*source{
		typedSource(s, config.Service, core.Services(""), &corev1.Service{}, nil, Service),
		typedSource(s, config.EndpointSlice, s.clients.typed.DiscoveryV1().EndpointSlices(""), &discoveryv1.EndpointSlice{},
			func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName }, EndpointSlice),
		typedSource(s, config.Pod, core.Pods(""), &corev1.Pod{}, nil, Pod),
		typedSource(s, config.Node, core.Nodes(), &corev1.Node{}, nil, Node),
		typedSource(s, config.Namespace, core.Namespaces(), &corev1.Namespace{}, nil, Namespace),
		typedSource(s, config.Secret, core.Secrets(""), &corev1.Secret{},
			// What can be large or many and is no credential stays at the server.
			func(o *metav1.ListOptions) {
				o.FieldSelector = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"
			},
			func(sec *corev1.Secret) *config.Object { return Secret(sec, s.opts.Namespace) }),
		s.meshSource(),
	}
}

// meshConfigMap is the name of the ConfigMap that holds the mesh configuration.
func (s *Store) meshConfigMap() string {
	if s.opts.Revision == "" || s.opts.Revision == "default" {
		return "istio"
	}
	return "istio-" + s.opts.Revision
}

// meshKey is the ConfigMap's key that holds the text of the mesh configuration.
const meshKey = "mesh"

// meshSource watches that one ConfigMap and makes a MeshConfig of it.
func (s *Store) meshSource() *source {
	name := s.meshConfigMap()
	c := typedSource(s, config.ConfigMap, s.clients.typed.CoreV1().ConfigMaps(s.opts.Namespace), &corev1.ConfigMap{},
		func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + name }, func(*corev1.ConfigMap) *config.Object { return nil })
	c.name, c.kind = "configmap "+name, config.MeshConfig
	c.key = func(metav1.Object) config.Key { return config.MeshConfigKey }
	c.read = func(raw any, prior *item) *item {
		cm := raw.(*corev1.ConfigMap)
		if cm.Name != name {
			return prior // of a server that does not know the field selector
		}
		it := &item{key: config.MeshConfigKey, uid: cm.UID, resourceVersion: cm.ResourceVersion}
		r := config.DecodeMeshConfig([]byte(cm.Data[meshKey]), "configmap/"+name)
		it.problems = r.Problems
		switch {
		case len(r.Objects) == 1:
			it.object = r.Objects[0]
			it.object.CreationTimestamp, it.object.ResourceVersion = cm.CreationTimestamp.UTC(), cm.ResourceVersion
		case prior != nil:
			it.object = prior.object
		}
		return it
	}
	return c
}

// objectSource watches a kind that users write, at a version.
func (s *Store) objectSource(kind *config.Kind, version string) *source {
	client := s.clients.dynamic.Resource(schema.GroupVersionResource{Group: kind.Group, Version: version, Resource: kind.Plural})
	return &source{
		store: s, name: kind.Plural + "." + kind.Group, kind: kind, expected: &unstructured.Unstructured{}, version: version,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, o)
		},
		watch: client.Watch,
		key: func(m metav1.Object) config.Key {
			return config.Key{Kind: kind, Namespace: m.GetNamespace(), Name: m.GetName()}
		},
		read: func(raw any, prior *item) *item {
			u := raw.(*unstructured.Unstructured)
			return s.readObject(kind, u.Object, u, prior)
		},
	}
}
