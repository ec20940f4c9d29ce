// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// overrides is the annotation proxy.istio.io/overrides: what the user's own
// containers named like ours had in them, which would be lost in the merge.
type overrides struct {
	Containers     []corev1.Container `json:"containers,omitempty"`
	InitContainers []corev1.Container `json:"initContainers,omitempty"`
}

// mergeOverlays lays the user's containers istio-proxy and istio-init over ours,
// as kubectl would patch them; the image "auto" stands for ours.
func (i *injection) mergeOverlays() error {
	var recorded overrides
	text, again := i.original.Annotations[OverridesName]
	if again {
		if err := json.Unmarshal([]byte(text), &recorded); err != nil {
			return i.annotationError(OverridesName, "is not {\"containers\": [...], \"initContainers\": [...]}: %v", err)
		}
	}
	var own overrides
	for _, list := range []struct {
		recorded, users []corev1.Container
		keep            *[]corev1.Container
	}{
		{recorded.Containers, i.original.Spec.Containers, &own.Containers},
		{recorded.InitContainers, i.original.Spec.InitContainers, &own.InitContainers},
	} {
		for _, name := range []string{ProxyContainer, InitContainer} {
			over := find(list.recorded, name)
			if over == nil {
				over = find(list.users, name)
			}
			if over == nil {
				continue
			}
			over = over.DeepCopy()
			if over.Image == AutoImage {
				over.Image = ""
				// What the API server gives an image without a tag; nobody chose it.
				if over.ImagePullPolicy == corev1.PullAlways {
					over.ImagePullPolicy = ""
				}
			}
			*list.keep = append(*list.keep, *over)
			if err := i.overlayContainer(name, over); err != nil {
				return err
			}
		}
	}
	if len(own.Containers)+len(own.InitContainers) > 0 && !again {
		if i.pod.Annotations == nil {
			i.pod.Annotations = map[string]string{}
		}
		i.pod.Annotations[OverridesName] = mustJSON(own)
	}
	return nil
}

func (i *injection) overlayContainer(name string, over *corev1.Container) error {
	target := find(i.pod.Spec.Containers, name)
	if target == nil {
		target = find(i.pod.Spec.InitContainers, name)
	}
	if target == nil {
		return &Error{i.object() + ", container " + name, "this pod gets no such container to lay it over; give it another name"}
	}
	base, err := json.Marshal(target)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(over)
	if err != nil {
		return err
	}
	merged, err := strategicpatch.StrategicMergePatch(base, patch, corev1.Container{})
	if err != nil {
		return &Error{i.object() + ", container " + name, fmt.Sprintf("cannot be merged with the injected one: %v", err)}
	}
	var out corev1.Container
	if err := json.Unmarshal(merged, &out); err != nil {
		return err
	}
	*target = out
	return nil
}
