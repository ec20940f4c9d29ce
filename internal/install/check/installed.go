// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/install"
)

// expirySoon is how long before its end a CA is worth a warning.
const expirySoon = 30 * 24 * time.Hour

const rootConfigMap, rootKey = "istio-ca-root-cert", "root-cert.pem"

// Installed are the checks of a mesh that runs.
func Installed() []Category {
	return []Category{
		kubernetesAPI(),
		controlPlane(),
		{"webhooks", []Check{
			{
				Description: "injector is registered and trusted",
				Hint:        "lateen install puts it back; the control plane puts its CA bundle in: kubectl logs -n istio-system deploy/istiod",
				Run:         injector,
			},
			{
				Description: "validator is registered and trusted",
				Hint:        "lateen install puts it back; the control plane puts its CA bundle in: kubectl logs -n istio-system deploy/istiod",
				Run:         validator,
			},
		}},
		{"identity", []Check{
			{
				Description: "the CA's certificate is valid",
				Hint:        "renew the Secret cacerts, or let the control plane make a new istio-ca-secret: docs/install.md",
				Run:         authority,
			},
			{
				Description: "meshed namespaces have the root certificate",
				Hint:        "the control plane's leader writes it: kubectl logs -n istio-system deploy/istiod",
				Run:         roots,
			},
		}},
		proxies(),
		{"gateways", []Check{
			{
				Description: "gateways are ready",
				Hint:        "kubectl get pods -n istio-system; kubectl describe pod NAME -n istio-system",
				Run:         gateways,
			},
			{
				Description: "load balancer addresses are given out",
				Hint:        "the cluster needs something that gives addresses to Services of type LoadBalancer; else set values.gateways.istio-ingressgateway.type=NodePort",
				Run:         addresses,
			},
		}},
		{"existing-meshes", []Check{{
			Description: "no other injector answers for the same namespaces",
			Hint:        "kubectl delete mutatingwebhookconfiguration NAME, once its mesh is uninstalled",
			Run:         otherInjectors,
		}}},
	}
}

func controlPlane() Category {
	return Category{"control-plane", []Check{
		{
			Description: "control plane is installed",
			Hint:        "lateen install",
			Fatal:       true,
			Run: func(ctx context.Context, e *Env) error {
				list, err := e.Typed.AppsV1().Deployments(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod," + install.OwnerLabel + "=" + install.Owner})
				if err == nil && len(list.Items) == 0 {
					return fmt.Errorf("no Deployment of it is in namespace %s", e.Namespace)
				}
				return err
			},
		},
		{
			Description: "control plane pods are ready",
			Hint:        "kubectl describe pod -n istio-system -l app=istiod; kubectl logs -n istio-system -l app=istiod",
			Run: func(ctx context.Context, e *Env) error {
				list, err := e.Typed.CoreV1().Pods(e.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
				if err != nil {
					return err
				}
				ready := 0
				var not []string
				for _, p := range list.Items {
					switch {
					case p.DeletionTimestamp != nil:
					case podReady(p):
						ready++
					default:
						not = append(not, p.Name)
					}
				}
				switch {
				case ready == 0:
					return fmt.Errorf("none is ready (%d pods)", len(list.Items))
				case len(not) > 0:
					return warn("not ready: %s", strings.Join(not, ", "))
				}
				return nil
			},
		},
		{
			Description: "custom resource definitions are served",
			Hint:        "lateen install puts them back",
			Run:         served,
		},
		{
			Description: "mesh configuration is valid",
			Hint:        "kubectl edit configmap istio -n istio-system, or lateen install --set meshConfig.FIELD=VALUE",
			Run:         meshConfig,
		},
	}}
}

func podReady(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func served(ctx context.Context, e *Env) error {
	list, err := e.Dynamic.Resource(definitions).List(ctx, metav1.ListOptions{})
	if err != nil {
		return forbidden(err)
	}
	have := map[string]bool{}
	for _, d := range list.Items {
		have[d.GetName()] = true
	}
	var missing []string
	for _, k := range config.Kinds() {
		// Those that the control plane cannot do without; the rest is for their users.
		if k.Group == "networking.istio.io" || k.Group == "security.istio.io" {
			if name := k.Plural + "." + k.Group; !have[name] {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

func meshConfig(ctx context.Context, e *Env) error {
	m, err := e.Typed.CoreV1().ConfigMaps(e.Namespace).Get(ctx, "istio", metav1.GetOptions{})
	if err != nil {
		return forbidden(err)
	}
	return config.Errors(config.Decode([]byte(m.Data["mesh"]), config.MeshConfigFile, "").Problems)
}

func injector(ctx context.Context, e *Env) error {
	list, err := e.Typed.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: install.OwnerLabel + "=" + install.Owner})
	if err != nil {
		return forbidden(err)
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("there is no MutatingWebhookConfiguration of it")
	}
	for _, c := range list.Items {
		for _, h := range c.Webhooks {
			if err := bundle(e, h.ClientConfig.CABundle); err != nil {
				return fmt.Errorf("%s, webhook %s: %w", c.Name, h.Name, err)
			}
		}
	}
	return nil
}

func validator(ctx context.Context, e *Env) error {
	list, err := e.Typed.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: install.OwnerLabel + "=" + install.Owner})
	if err != nil {
		return forbidden(err)
	}
	if len(list.Items) == 0 {
		return fmt.Errorf("there is no ValidatingWebhookConfiguration of it")
	}
	for _, c := range list.Items {
		for _, h := range c.Webhooks {
			if err := bundle(e, h.ClientConfig.CABundle); err != nil {
				return fmt.Errorf("%s, webhook %s: %w", c.Name, h.Name, err)
			}
		}
	}
	return nil
}

func bundle(e *Env, data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("its CA bundle is empty")
	}
	return validCertificates(e, data)
}

// validCertificates reports the first certificate of a PEM text that is not
// valid now, and warns of one that soon will not be.
func validCertificates(e *Env, data []byte) error {
	seen := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		seen++
		now := e.Now()
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf("a certificate is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return fmt.Errorf("a certificate ended on %s", c.NotAfter.UTC().Format(time.RFC3339))
		case c.NotAfter.Sub(now) < expirySoon:
			return warn("a certificate ends on %s", c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if seen == 0 {
		return fmt.Errorf("there is no certificate in it")
	}
	return nil
}

// authority looks at the CA's certificate, not at its key.
func authority(ctx context.Context, e *Env) error {
	for _, name := range []string{"cacerts", "istio-ca-secret"} {
		s, err := e.Typed.CoreV1().Secrets(e.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return forbidden(err)
		}
		if err := validCertificates(e, s.Data["ca-cert.pem"]); err != nil {
			return fmt.Errorf("in Secret %s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("there is neither a Secret cacerts nor istio-ca-secret in namespace %s", e.Namespace)
}

func roots(ctx context.Context, e *Env) error {
	own, err := e.Typed.CoreV1().ConfigMaps(e.Namespace).Get(ctx, rootConfigMap, metav1.GetOptions{})
	if err != nil {
		return forbidden(err)
	}
	list, err := e.Typed.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return forbidden(err)
	}
	var missing []string
	for _, ns := range list.Items {
		if ns.Labels["istio-injection"] != "enabled" && ns.Labels["istio.io/rev"] == "" || ns.DeletionTimestamp != nil {
			continue
		}
		m, err := e.Typed.CoreV1().ConfigMaps(ns.Name).Get(ctx, rootConfigMap, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return forbidden(err)
		}
		if err != nil || !bytes.Equal([]byte(m.Data[rootKey]), []byte(own.Data[rootKey])) {
			missing = append(missing, ns.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the ConfigMap %s is missing or another in %s", rootConfigMap, strings.Join(missing, ", "))
	}
	return nil
}

func gateways(ctx context.Context, e *Env) error {
	list, err := e.Typed.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: "istio in (ingressgateway,egressgateway)," + install.OwnerLabel + "=" + install.Owner})
	if err != nil {
		return forbidden(err)
	}
	for _, d := range list.Items {
		if d.Status.AvailableReplicas == 0 && (d.Spec.Replicas == nil || *d.Spec.Replicas > 0) {
			return fmt.Errorf("no replica of Deployment %s/%s is available", d.Namespace, d.Name)
		}
	}
	return nil
}

func addresses(ctx context.Context, e *Env) error {
	list, err := e.Typed.CoreV1().Services("").List(ctx, metav1.ListOptions{LabelSelector: install.OwnerLabel + "=" + install.Owner})
	if err != nil {
		return forbidden(err)
	}
	for _, s := range list.Items {
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0 {
			return warn("none for Service %s/%s", s.Namespace, s.Name)
		}
	}
	return nil
}
