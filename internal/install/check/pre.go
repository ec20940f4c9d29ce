// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lateen-mesh/lateen/internal/install"
)

// What the product is made for. Sidecars that are init containers came with 1.29.
const (
	oldestMinor  = 29
	oldestKernel = "4.18" // nftables with what the capture rules need
)

// Pre are the checks before an installation.
func Pre() []Category {
	return []Category{kubernetesAPI(), permissions(), nodes(), {"existing-meshes", []Check{
		{
			Description: "no other control plane is in the namespace",
			Hint:        "uninstall it, or install beside it with --revision NAME -i OTHER-NAMESPACE",
			Run:         otherControlPlane,
		},
		{
			Description: "no other injector answers for the same namespaces",
			Hint:        "kubectl delete mutatingwebhookconfiguration NAME, once its mesh is uninstalled",
			Run:         otherInjectors,
		},
		{
			Description: "custom resource definitions are Lateen's or not there",
			Hint:        "an installation takes them over; what is written in their kinds stays",
			Run:         otherDefinitions,
		},
	}}, {"gateway-api", []Check{gatewayAPI()}}}
}

// Upgrade are those of them that an upgrade needs.
func Upgrade() []Category { return []Category{kubernetesAPI(), permissions(), nodes()} }

func kubernetesAPI() Category {
	return Category{"kubernetes-api", []Check{
		{
			Description: "can query the API server",
			Hint:        "check the kubeconfig and the network: kubectl version",
			Fatal:       true,
			Run: func(_ context.Context, e *Env) error {
				_, err := e.Typed.Discovery().ServerVersion()
				return err
			},
		},
		{
			Description: fmt.Sprintf("is running at least Kubernetes 1.%d", oldestMinor),
			Hint:        "upgrade the cluster",
			Run: func(_ context.Context, e *Env) error {
				v, err := e.Typed.Discovery().ServerVersion()
				if err != nil {
					return err
				}
				major, minor, ok := majorMinor(v.GitVersion)
				if !ok {
					return warn("the version %q cannot be read", v.GitVersion)
				}
				if major == 1 && minor < oldestMinor {
					return fmt.Errorf("it is %s", v.GitVersion)
				}
				return nil
			},
		},
	}}
}

var versionPattern = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

func majorMinor(s string) (major, minor int, ok bool) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, false
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	return major, minor, err1 == nil && err2 == nil
}

// needed is what whoever installs must be allowed to create.
var needed = []struct {
	group, resource string
	namespaced      bool
}{
	{"", "namespaces", false},
	{"apiextensions.k8s.io", "customresourcedefinitions", false},
	{"rbac.authorization.k8s.io", "clusterroles", false},
	{"rbac.authorization.k8s.io", "clusterrolebindings", false},
	{"admissionregistration.k8s.io", "mutatingwebhookconfigurations", false},
	{"admissionregistration.k8s.io", "validatingwebhookconfigurations", false},
	{"networking.k8s.io", "ingressclasses", false},
	{"rbac.authorization.k8s.io", "roles", true},
	{"rbac.authorization.k8s.io", "rolebindings", true},
	{"", "serviceaccounts", true},
	{"", "services", true},
	{"", "configmaps", true},
	{"apps", "deployments", true},
	{"policy", "poddisruptionbudgets", true},
	{"autoscaling", "horizontalpodautoscalers", true},
}

func permissions() Category {
	c := Category{Name: "permissions"}
	for _, n := range needed {
		name := n.resource
		if n.group != "" {
			name += "." + n.group
		}
		c.Checks = append(c.Checks, Check{
			Description: "can create and patch " + name,
			Hint:        "install as somebody who may: kubectl auth can-i create " + name,
			Run: func(ctx context.Context, e *Env) error {
				for _, v := range []string{"create", "patch"} {
					attr := &authv1.ResourceAttributes{Verb: v, Group: n.group, Resource: n.resource}
					if n.namespaced {
						attr.Namespace = e.Namespace
					}
					r, err := e.Typed.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
						&authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attr}}, metav1.CreateOptions{})
					if err != nil {
						return err
					}
					if !r.Status.Allowed {
						return fmt.Errorf("not allowed to %s %s", v, name)
					}
				}
				return nil
			},
		})
	}
	return c
}

func nodes() Category {
	return Category{"nodes", []Check{
		{
			Description: "a node is ready",
			Hint:        "kubectl get nodes; kubectl describe node NAME",
			Run: func(ctx context.Context, e *Env) error {
				list, err := e.Typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
				if err != nil {
					return forbidden(err)
				}
				for _, n := range list.Items {
					if nodeReady(n) {
						return nil
					}
				}
				return fmt.Errorf("none of %d is", len(list.Items))
			},
		},
		{
			Description: "kernels can redirect pods' traffic (Linux " + oldestKernel + " or newer)",
			Hint:        "upgrade these nodes; whether a kernel has nftables or iptables only the istio-init container of a pod there can tell",
			Run: func(ctx context.Context, e *Env) error {
				list, err := e.Typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
				if err != nil {
					return forbidden(err)
				}
				var old []string
				wantMajor, wantMinor, _ := majorMinor(oldestKernel)
				for _, n := range list.Items {
					info := n.Status.NodeInfo
					major, minor, ok := majorMinor(info.KernelVersion)
					if ok && info.OperatingSystem != "windows" && (major < wantMajor || major == wantMajor && minor < wantMinor) {
						old = append(old, n.Name+" ("+info.KernelVersion+")")
					}
				}
				if len(old) > 0 {
					return warn("older: %s", strings.Join(old, ", "))
				}
				return nil
			},
		},
	}}
}

func nodeReady(n corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// forbidden turns a missing permission to look into a warning.
func forbidden(err error) error {
	if apierrors.IsForbidden(err) {
		return warning{fmt.Errorf("cannot be checked: %w", err)}
	}
	return err
}

func otherControlPlane(ctx context.Context, e *Env) error {
	list, err := e.Typed.AppsV1().Deployments(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return forbidden(err)
	}
	for _, d := range list.Items {
		if d.Labels[install.OwnerLabel] != install.Owner {
			return fmt.Errorf("the Deployment %s/%s is not Lateen's", d.Namespace, d.Name)
		}
	}
	return nil
}

func otherInjectors(ctx context.Context, e *Env) error {
	list, err := e.Typed.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: "app=sidecar-injector"})
	if err != nil {
		return forbidden(err)
	}
	for _, w := range list.Items {
		if w.Labels[install.OwnerLabel] != install.Owner {
			return warn("MutatingWebhookConfiguration %s is not Lateen's", w.Name)
		}
	}
	return nil
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func otherDefinitions(ctx context.Context, e *Env) error {
	list, err := e.Dynamic.Resource(definitions).List(ctx, metav1.ListOptions{})
	if err != nil {
		return forbidden(err)
	}
	other := 0
	for _, d := range list.Items {
		if strings.HasSuffix(d.GetName(), ".istio.io") && d.GetLabels()[install.OwnerLabel] != install.Owner {
			other++
		}
	}
	if other > 0 {
		return warn("%d of *.istio.io were installed by something else", other)
	}
	return nil
}

func gatewayAPI() Check {
	return Check{
		Description: "the Gateway API is installed",
		Hint:        "only needed for its Gateways and HTTPRoutes: kubectl apply -f the standard-install.yaml of a release of gateway-api",
		Run: func(ctx context.Context, e *Env) error {
			_, err := e.Dynamic.Resource(definitions).Get(ctx, "gateways.gateway.networking.k8s.io", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return warn("the cluster does not have its definitions")
			}
			return forbidden(err)
		},
	}
}
