// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// cronSuffix ends the name of a Job that a CronJob made: the minute it stands for.
var cronSuffix = regexp.MustCompile(`-\d{8,10}$`)

// workloadOf finds what a pod is made from: the Deployment behind a ReplicaSet,
// the CronJob behind a Job, else its controller, else the pod itself.
func workloadOf(in *Input) Workload {
	if in.Workload.Name != "" {
		return in.Workload
	}
	pod := in.Pod
	for _, ref := range pod.OwnerReferences {
		if ref.Controller == nil || !*ref.Controller {
			continue
		}
		w := Workload{ref.APIVersion, ref.Kind, ref.Name}
		switch hash := pod.Labels["pod-template-hash"]; {
		case ref.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(ref.Name, "-"+hash):
			w.Kind, w.Name = "Deployment", strings.TrimSuffix(ref.Name, "-"+hash)
		case ref.Kind == "Job" && cronSuffix.MatchString(ref.Name):
			w.Kind, w.Name = "CronJob", cronSuffix.ReplaceAllString(ref.Name, "")
		}
		return w
	}
	name := pod.Name
	if name == "" {
		name = strings.TrimSuffix(pod.GenerateName, "-")
	}
	return Workload{"v1", "Pod", name}
}

// owner is the workload as Istio's telemetry names it (node metadata OWNER).
func (w Workload) owner(namespace string) string {
	return "kubernetes://apis/" + w.APIVersion + "/namespaces/" + namespace + "/" + strings.ToLower(w.Kind) + "s/" + w.Name
}

// canonical are the values of the labels service.istio.io/canonical-name and
// canonical-revision (Istio's pkg/model CanonicalServiceLabels).
func canonical(labels map[string]string, w Workload) (name, revision string) {
	return first(labels["service.istio.io/canonical-name"], labels["app.kubernetes.io/name"], labels["app"], w.Name),
		first(labels["service.istio.io/canonical-revision"], labels["app.kubernetes.io/version"], labels["version"], "latest")
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// injected reports whether a pod has what its status annotation says was added.
func injected(pod *corev1.Pod) bool {
	s, ok := readStatus(pod)
	if !ok {
		return false
	}
	for _, name := range s.Containers {
		if find(pod.Spec.Containers, name) == nil {
			return false
		}
	}
	for _, name := range s.InitContainers {
		if find(pod.Spec.InitContainers, name) == nil {
			return false
		}
	}
	return len(s.Containers)+len(s.InitContainers) > 0
}

func find(containers []corev1.Container, name string) *corev1.Container {
	for k := range containers {
		if containers[k].Name == name {
			return &containers[k]
		}
	}
	return nil
}
