// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
	"github.com/lateen-mesh/lateen/internal/inject"
)

// injectorSettings follows the ConfigMap with the injector's settings. A bad
// one is logged and the last good one stays.
type injectorSettings struct {
	cluster *cluster
	name    string

	mu      sync.Mutex // guards what follows
	current *inject.Settings
	err     error
}

func newInjectorSettings(c *cluster) *injectorSettings {
	return &injectorSettings{cluster: c, name: "istio-sidecar-injector" + c.suffix(), err: errors.New("the injector's settings have not been read yet")}
}

// run watches until ctx ends.
func (s *injectorSettings) run(ctx context.Context) {
	factory := informers.NewSharedInformerFactoryWithOptions(s.cluster.client, 0, informers.WithNamespace(s.cluster.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.name).String()
		}))
	informer := factory.Core().V1().ConfigMaps().Informer()
	// Fails only for an informer that was stopped.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.read(o.(*corev1.ConfigMap)) },
		UpdateFunc: func(_, o any) { s.read(o.(*corev1.ConfigMap)) },
	})
	informer.RunWithContext(ctx)
}

func (s *injectorSettings) read(m *corev1.ConfigMap) {
	settings, err := inject.ParseSettings([]byte(m.Data[inject.ConfigKey]), []byte(m.Data[inject.ValuesKey]))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.current == nil {
			s.err = err
		}
		s.cluster.log.Error("the injector's settings are not taken", "error", err)
		return
	}
	s.current, s.err = settings, nil
}

// ready says what is missing.
func (s *injectorSettings) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// get returns the settings in force, for these kubelets.
func (s *injectorSettings) get(kubelets []string) (*inject.Settings, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, s.err
	}
	out := *s.current
	out.KubeletVersions = kubelets
	return &out, nil
}

// injection gathers what the injection of a pod in the namespace depends on.
func (c *cluster) injection(ctx context.Context, namespace string) (inject.Input, error) {
	in := inject.Input{Namespace: inject.Namespace{Name: namespace}}
	nodes, err := c.store.List(ctx, config.Node, "")
	if err != nil {
		return in, fmt.Errorf("nodes: %w", err)
	}
	var kubelets []string
	for _, n := range nodes {
		kubelets = append(kubelets, n.Spec.(*k8s.Node).Kubelet)
	}
	slices.Sort(kubelets)
	if in.Settings, err = c.settings.get(slices.Compact(kubelets)); err != nil {
		return in, err
	}
	ns, err := c.store.Get(ctx, config.Key{Kind: config.Namespace, Name: namespace})
	switch {
	case err == nil:
		in.Namespace.Labels, in.Namespace.Annotations = ns.Labels, ns.Annotations
	case !errors.Is(err, config.ErrNotFound):
		return in, fmt.Errorf("namespace %s: %w", namespace, err)
	}
	mesh, err := c.store.Get(ctx, config.MeshConfigKey)
	switch {
	case err == nil:
		in.Mesh = mesh.Spec.(*meshv1alpha1.MeshConfig)
	case !errors.Is(err, config.ErrNotFound):
		return in, fmt.Errorf("mesh configuration: %w", err)
	}
	root := cmp.Or(in.Mesh.GetRootNamespace(), c.Namespace)
	for _, ns := range slices.Compact([]string{root, namespace}) {
		list, err := c.store.List(ctx, config.ProxyConfig, ns)
		if err != nil {
			return in, fmt.Errorf("ProxyConfigs of %s: %w", ns, err)
		}
		in.ProxyConfigs = append(in.ProxyConfigs, list...)
	}
	return in, nil
}
