// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Outcome is what became of one object of a stream of documents.
type Outcome struct {
	Object   string // Deployment default/web
	Decision Decision
	Warnings []string
}

// templatePaths lead to the pod template of the kinds that have one.
var templatePaths = map[string][]string{
	"Pod": {}, "Deployment": {"spec", "template"}, "StatefulSet": {"spec", "template"}, "DaemonSet": {"spec", "template"},
	"ReplicaSet": {"spec", "template"}, "ReplicationController": {"spec", "template"}, "Job": {"spec", "template"},
	"CronJob": {"spec", "jobTemplate", "spec", "template"},
}

// groups are those of the kinds above; another object may have the same name.
var groups = map[string]bool{"v1": true, "apps/v1": true, "batch/v1": true}

// Documents injects into the pods and pod templates of a stream of YAML or JSON
// documents, lists included, as `istioctl kube-inject` does. What is not
// injected comes out byte for byte as it went in. The pod, its workload and the
// namespace's name are taken from the documents; base.Namespace.Name is for
// those that name none.
func Documents(data []byte, base Input) ([]byte, []Outcome, error) {
	var out bytes.Buffer
	d := documents{base: base}
	for n, text := range splitDocuments(data) {
		changed, err := d.document(text)
		if err != nil {
			return nil, nil, fmt.Errorf("document %d: %w", n+1, err)
		}
		if n > 0 && !bytes.HasPrefix(changed, []byte("---")) {
			out.WriteString("---\n")
		}
		out.Write(changed)
		if len(changed) > 0 && changed[len(changed)-1] != '\n' {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), d.outcomes, nil
}

// splitDocuments cuts at lines that begin a document; each part but the first
// keeps that line.
func splitDocuments(data []byte) [][]byte {
	var out [][]byte
	start := 0
	for at := 0; at < len(data); {
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			end = len(data)
		} else {
			end += at + 1
		}
		line := bytes.TrimRight(data[at:end], " \t\r\n")
		if at > start && (bytes.Equal(line, []byte("---")) || bytes.HasPrefix(line, []byte("--- "))) {
			out = append(out, data[start:at])
			start = at
		}
		at = end
	}
	return append(out, data[start:])
}

type documents struct {
	base     Input
	outcomes []Outcome
}

func (d *documents) document(text []byte) ([]byte, error) {
	var m map[string]any
	isJSON := bytes.HasPrefix(bytes.TrimSpace(text), []byte("{"))
	if err := yaml.Unmarshal(text, &m); err != nil {
		var scalar any
		if yaml.Unmarshal(text, &scalar) == nil && scalar == nil {
			return text, nil // nothing but comments
		}
		return nil, err
	}
	changed, err := d.object(m)
	if err != nil {
		return nil, err
	}
	if !changed {
		return text, nil
	}
	if isJSON {
		b, err := json.MarshalIndent(m, "", "    ")
		return append(b, '\n'), err
	}
	b, err := yaml.Marshal(m)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(text, []byte("---")) {
		b = append([]byte("---\n"), b...)
	}
	return b, nil
}

func (d *documents) object(m map[string]any) (changed bool, err error) {
	kind, _ := m["kind"].(string)
	apiVersion, _ := m["apiVersion"].(string)
	if items, ok := m["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		for k, item := range items {
			one, ok := item.(map[string]any)
			if !ok {
				return false, fmt.Errorf("%s: items[%d] is not an object", kind, k)
			}
			if _, ok := one["kind"]; !ok && kind != "List" { // a typed list leaves it out
				if _, known := templatePaths[strings.TrimSuffix(kind, "List")]; known {
					one["kind"], one["apiVersion"] = strings.TrimSuffix(kind, "List"), apiVersion
				}
			}
			c, err := d.object(one)
			if err != nil {
				return false, err
			}
			changed = changed || c
		}
		return changed, nil
	}
	path, ok := templatePaths[kind]
	if !ok || !groups[apiVersion] {
		return false, nil
	}
	return d.workload(m, kind, apiVersion, path)
}

// workload injects into one object that is a pod or has a pod template.
func (d *documents) workload(m map[string]any, kind, apiVersion string, path []string) (bool, error) {
	metadata, _ := m["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	namespace, _ := metadata["namespace"].(string)
	namespace = first(namespace, d.base.Namespace.Name, "default")
	object := kind + " " + namespace + "/" + name
	template := m
	for _, key := range path {
		next, ok := template[key].(map[string]any)
		if !ok {
			return false, fmt.Errorf("%s: %s is missing", object, strings.Join(path, "."))
		}
		template = next
	}
	pod, err := readPod(template)
	if err != nil {
		return false, fmt.Errorf("%s: %w", object, err)
	}
	in := d.base
	if in.Namespace.Name != namespace {
		in.Namespace = Namespace{Name: namespace}
	}
	in.Pod, in.Workload = pod, Workload{apiVersion, kind, name}
	r, err := Inject(in)
	if err != nil {
		return false, fmt.Errorf("%s: %w", object, err)
	}
	d.outcomes = append(d.outcomes, Outcome{object, r.Decision, r.Warnings})
	if !r.Decision.Inject {
		return false, nil
	}
	b, err := json.Marshal(r.Pod)
	if err != nil {
		return false, err
	}
	var now map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(b, &now); err != nil {
		return false, err
	}
	template["metadata"], template["spec"] = now["metadata"], now["spec"]
	return true, nil
}

// readPod reads a pod or pod template strictly: a field that is not known here
// would be lost.
func readPod(template map[string]any) (*corev1.Pod, error) {
	only := map[string]any{"metadata": template["metadata"], "spec": template["spec"]}
	b, err := json.Marshal(only)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	unknown, err := kjson.UnmarshalStrict(b, pod)
	if err == nil {
		err = errors.Join(unknown...)
	}
	if err != nil {
		return nil, fmt.Errorf("pod template: %w", err)
	}
	if len(pod.Spec.Containers) == 0 {
		return nil, errors.New("pod template: spec.containers is empty")
	}
	return pod, nil
}
