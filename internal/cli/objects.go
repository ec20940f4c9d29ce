// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

// applied is what a change did, and what to wait for.
type applied struct {
	result   string // created, configured, unchanged, deleted
	warnings []string
	wait     api.WaitRequest
}

// list returns the objects of a kind; an empty namespace means all.
func (t *target) list(ctx context.Context, kind *config.Kind, namespace string) ([]api.Object, error) {
	if t.kube != nil {
		return t.kube.list(ctx, kind, namespace)
	}
	l, err := t.planes[0].List(ctx, kind.Name, namespace, "")
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// apply stores an object: in a cluster with the user's own permissions.
func (t *target) apply(ctx context.Context, o *config.Object) (applied, error) {
	manifest, err := o.JSON()
	if err != nil {
		return applied{}, err
	}
	if t.kube != nil {
		return t.kube.apply(ctx, o, manifest)
	}
	res, err := t.planes[0].Apply(ctx, manifest)
	if err != nil {
		return applied{}, err
	}
	return applied{res.Result, res.Warnings, api.WaitRequest{Epoch: res.Epoch}}, nil
}

// delete removes an object; a missing one is an *api.Error with code not_found.
func (t *target) delete(ctx context.Context, key config.Key) (applied, error) {
	if t.kube != nil {
		return t.kube.delete(ctx, key)
	}
	res, err := t.planes[0].Delete(ctx, key.Kind.Name, key.Namespace, key.Name)
	if err != nil {
		return applied{}, err
	}
	return applied{res.Result, nil, api.WaitRequest{Epoch: res.Epoch}}, nil
}

// resource is where the API server keeps a kind. Two kinds it does not have.
func (k *kubeAccess) resource(kind *config.Kind, version, namespace string) (dynamic.ResourceInterface, error) {
	switch kind {
	case config.MeshConfig:
		return nil, &api.Error{Code: "invalid", Message: "in a cluster the MeshConfig is set with `lateen install --set meshConfig.FIELD=VALUE`, or in the ConfigMap istio of namespace " + k.system}
	case config.LocalWorkload:
		return nil, &api.Error{Code: "invalid", Message: "only a mesh on one machine has this kind: in a cluster, workloads are pods"}
	}
	r := k.dynamic.Resource(schema.GroupVersionResource{Group: kind.Group, Version: version, Resource: kind.Plural})
	if namespace == "" || clusterScoped(kind) {
		return r, nil
	}
	return r.Namespace(namespace), nil
}

// clusterScoped reports the kinds that live in no namespace.
func clusterScoped(kind *config.Kind) bool {
	return kind.Name == "GatewayClass" || kind.Name == "IngressClass"
}

func (k *kubeAccess) list(ctx context.Context, kind *config.Kind, namespace string) ([]api.Object, error) {
	if kind == config.MeshConfig {
		return k.meshConfig(ctx)
	}
	r, err := k.resource(kind, kind.Versions[0], namespace)
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kubeError(kind, err)
	}
	out := make([]api.Object, 0, len(l.Items))
	for i := range l.Items {
		o := &l.Items[i]
		o.SetManagedFields(nil)
		b, err := o.MarshalJSON()
		if err != nil {
			return nil, err
		}
		out = append(out, api.Object{Group: kind.Group, Kind: kind.Name, Namespace: o.GetNamespace(), Name: o.GetName(), Manifest: b})
	}
	return out, nil
}

// meshConfig reads the ConfigMap istio as the object it is in a local mesh.
func (k *kubeAccess) meshConfig(ctx context.Context) ([]api.Object, error) {
	m, err := k.typed.CoreV1().ConfigMaps(k.system).Get(ctx, config.MeshConfigKey.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kubeError(config.MeshConfig, err)
	}
	var spec map[string]any
	if err := yaml.Unmarshal([]byte(m.Data["mesh"]), &spec); err != nil {
		return nil, fmt.Errorf("ConfigMap %s/%s: mesh: %w", m.Namespace, m.Name, err)
	}
	b, err := json.Marshal(map[string]any{
		"apiVersion": config.MeshConfig.APIVersion(), "kind": config.MeshConfig.Name,
		"metadata": map[string]any{"name": m.Name, "namespace": m.Namespace, "creationTimestamp": m.CreationTimestamp},
		"spec":     spec,
	})
	if err != nil {
		return nil, err
	}
	return []api.Object{{
		Group: config.MeshConfig.Group, Kind: config.MeshConfig.Name, Namespace: m.Namespace, Name: m.Name, Manifest: b,
		Source: "ConfigMap " + m.Namespace + "/" + m.Name,
	}}, nil
}

// apply creates the object, or replaces its spec and adds its labels and
// annotations; what else is there, such as its status, stays.
func (k *kubeAccess) apply(ctx context.Context, o *config.Object, manifest []byte) (applied, error) {
	wanted := &unstructured.Unstructured{}
	if err := wanted.UnmarshalJSON(manifest); err != nil {
		return applied{}, err
	}
	r, err := k.resource(o.Kind, wanted.GroupVersionKind().Version, o.Namespace)
	if err != nil {
		return applied{}, err
	}
	unstructured.RemoveNestedField(wanted.Object, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(wanted.Object, "metadata", "generation")
	manager := metav1.UpdateOptions{FieldManager: "lateen"}
	now, err := r.Get(ctx, o.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		wanted.SetResourceVersion("")
		made, err := r.Create(ctx, wanted, metav1.CreateOptions{FieldManager: manager.FieldManager})
		if err != nil {
			return applied{}, kubeError(o.Kind, err)
		}
		return applied{result: "created", wait: stored(o.Key, made)}, nil
	}
	if err != nil {
		return applied{}, kubeError(o.Kind, err)
	}
	next := now.DeepCopy()
	next.Object["spec"] = wanted.Object["spec"]
	next.SetLabels(over(now.GetLabels(), wanted.GetLabels()))
	next.SetAnnotations(over(now.GetAnnotations(), wanted.GetAnnotations()))
	if v := wanted.GetResourceVersion(); v != "" {
		next.SetResourceVersion(v)
	}
	if reflect.DeepEqual(now.Object, next.Object) {
		return applied{result: "unchanged", wait: stored(o.Key, now)}, nil
	}
	made, err := r.Update(ctx, next, manager)
	if err != nil {
		return applied{}, kubeError(o.Kind, err)
	}
	result := "configured"
	if v := made.GetResourceVersion(); v != "" && v == now.GetResourceVersion() {
		result = "unchanged"
	}
	return applied{result: result, wait: stored(o.Key, made)}, nil
}

// over lays one map over another; nil stays nil.
func over(under, on map[string]string) map[string]string {
	if len(on) == 0 {
		return under
	}
	out := map[string]string{}
	maps.Copy(out, under)
	maps.Copy(out, on)
	return out
}

func stored(k config.Key, o *unstructured.Unstructured) api.WaitRequest {
	return api.WaitRequest{Object: &api.StoredObject{Kind: k.Kind.Name, Namespace: k.Namespace, Name: k.Name, ResourceVersion: o.GetResourceVersion()}}
}

func (k *kubeAccess) delete(ctx context.Context, key config.Key) (applied, error) {
	r, err := k.resource(key.Kind, key.Kind.Versions[0], key.Namespace)
	if err != nil {
		return applied{}, err
	}
	if err := r.Delete(ctx, key.Name, metav1.DeleteOptions{}); err != nil {
		return applied{}, kubeError(key.Kind, err)
	}
	return applied{result: "deleted", wait: api.WaitRequest{Object: &api.StoredObject{Kind: key.Kind.Name, Namespace: key.Namespace, Name: key.Name}}}, nil
}

// kubeError turns an answer of the API server into one of the interface; that
// it could not be reached stays what it is.
func kubeError(kind *config.Kind, err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err
	}
	code := "invalid"
	switch {
	case apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Name == "":
		return &api.Error{Code: "unknown_kind", Message: fmt.Sprintf("the cluster has no %s.%s: install them with `lateen install`", kind.Plural, kind.Group)}
	case apierrors.IsNotFound(err):
		code = "not_found"
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		code = "conflict"
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		code = "timeout"
	case apierrors.IsInternalError(err), apierrors.IsServiceUnavailable(err):
		code = "internal"
	}
	return &api.Error{Code: code, Message: err.Error()}
}
