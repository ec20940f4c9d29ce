// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// status is the annotation sidecar.istio.io/status: what an injection has added.
type status struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
}

func readStatus(pod *corev1.Pod) (status, bool) {
	var s status
	text, ok := pod.Annotations[StatusName]
	if !ok || json.Unmarshal([]byte(text), &s) != nil {
		return status{}, false
	}
	return s, true
}

func names[T any](all []T, name func(T) string) []string {
	var out []string
	for _, v := range all {
		out = append(out, name(v))
	}
	return out
}

// added are those of now that were not there before, except that the proxy's
// containers are ours even where the user named them.
func added(now, before []string) []string {
	var out []string
	for _, n := range now {
		if n == ProxyContainer || n == InitContainer || !slices.Contains(before, n) {
			out = append(out, n)
		}
	}
	return out
}

func (i *injection) recordStatus() error {
	container := func(c corev1.Container) string { return c.Name }
	volume := func(v corev1.Volume) string { return v.Name }
	secret := func(r corev1.LocalObjectReference) string { return r.Name }
	now, before := &i.pod.Spec, &i.original.Spec
	s := status{
		InitContainers:   added(names(now.InitContainers, container), names(before.InitContainers, container)),
		Containers:       added(names(now.Containers, container), names(before.Containers, container)),
		Volumes:          added(names(now.Volumes, volume), names(before.Volumes, volume)),
		ImagePullSecrets: added(names(now.ImagePullSecrets, secret), names(before.ImagePullSecrets, secret)),
		Revision:         i.s.Revision,
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	i.pod.Annotations[StatusName] = string(b)
	return nil
}

// setMetadata sets Istio's labels and annotations; the user's own stay.
func (i *injection) setMetadata() {
	m := &i.pod.ObjectMeta
	name, revision := canonical(i.original.Labels, i.workload)
	for key, value := range map[string]string{"service.istio.io/canonical-name": name, "service.istio.io/canonical-revision": revision} {
		// The name of a workload may be longer than a label's value.
		if len(validation.IsValidLabelValue(value)) == 0 {
			setDefault(&m.Labels, key, value)
		}
	}
	setDefault(&m.Labels, "security.istio.io/tlsMode", "istio")
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[RevisionLabel] = i.s.Revision
	if app := i.appContainers(); len(app) > 0 {
		setDefault(&m.Annotations, "kubectl.kubernetes.io/default-container", app[0])
		setDefault(&m.Annotations, "kubectl.kubernetes.io/default-logs-container", app[0])
	}
	maps.Copy(m.Annotations, i.s.InjectedAnnotations)
}

// proxyOf is the container the proxy runs in, wherever it is.
func (i *injection) proxyOf() *corev1.Container {
	if c := find(i.pod.Spec.Containers, ProxyContainer); c != nil {
		return c
	}
	return find(i.pod.Spec.InitContainers, ProxyContainer)
}
