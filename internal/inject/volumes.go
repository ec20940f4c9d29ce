// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// tokenSeconds is how long the token that proves who the pod is lasts; the
// kubelet renews it at 80 %.
const tokenSeconds = 43200

func (i *injection) addVolumes() {
	file := func(path string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata." + path}}
	}
	volumes := []corev1.Volume{
		{Name: "istio-envoy", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "istio-podinfo", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			Items: []corev1.DownwardAPIVolumeFile{file("labels"), file("annotations")}}}},
		{Name: "istio-token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: "istio-ca", ExpirationSeconds: ptr(int64(tokenSeconds)), Path: "istio-token"}}}}}},
		{Name: "istiod-ca-cert", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "istio-ca-root-cert"}}}},
	}
	user, _ := userVolumes(i.annotation(annUserVolume, "{}")) // checkAnnotations has read it
	for _, v := range append(volumes, user...) {
		// A volume of the user's own with the same name replaces ours.
		if !slices.ContainsFunc(i.pod.Spec.Volumes, func(have corev1.Volume) bool { return have.Name == v.Name }) {
			i.pod.Spec.Volumes = append(i.pod.Spec.Volumes, v)
		}
	}
	for _, name := range i.s.ImagePullSecrets {
		ref := corev1.LocalObjectReference{Name: name}
		if !slices.Contains(i.pod.Spec.ImagePullSecrets, ref) {
			i.pod.Spec.ImagePullSecrets = append(i.pod.Spec.ImagePullSecrets, ref)
		}
	}
}
