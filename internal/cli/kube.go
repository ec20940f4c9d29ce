// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/install"
)

// apiPort is where lateend serves the command line's interface, on the
// loopback of its pod: only who may port-forward to the pod reaches it.
const apiPort = 9876

// kubeAccess is a cluster and what may be done there with the user's credentials.
type kubeAccess struct {
	// context is the name of the kubeconfig's context, or "in-cluster".
	context string
	// namespace is that of the context, for what is named without one.
	namespace string
	// system is the namespace of the control plane.
	system string

	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	// forward connects to a port of a pod.
	forward func(ctx context.Context, namespace, pod string, port int) (net.Conn, error)
}

// kubeFlags choose the cluster, with the names of kubectl and istioctl.
type kubeFlags struct {
	kubeconfig, context, system string
	as                          string
	asGroups                    []string
}

// loader reads the kubeconfig files: --kubeconfig, else KUBECONFIG, else the one at home.
func (a *app) loader() clientcmd.ClientConfig {
	rules := &clientcmd.ClientConfigLoadingRules{WarnIfAllMissing: false}
	switch {
	case a.kubeFlags.kubeconfig != "":
		rules.ExplicitPath = a.kubeFlags.kubeconfig
	case a.Getenv("KUBECONFIG") != "":
		rules.Precedence = filepath.SplitList(a.Getenv("KUBECONFIG"))
	case a.Getenv("HOME") != "":
		rules.Precedence = []string{filepath.Join(a.Getenv("HOME"), ".kube", "config")}
	}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{
		CurrentContext: a.kubeFlags.context,
		AuthInfo:       clientConfigAs(a.kubeFlags),
	})
}

// kube gives access to the cluster that the flags and the kubeconfig name. It
// does not connect yet. Without any cluster it fails with ExitNoMesh.
func (a *app) kube() (*kubeAccess, error) {
	if a.openKube != nil {
		return a.openKube()
	}
	loader := a.loader()
	cfg, err := loader.ClientConfig()
	name := ""
	if err == nil {
		raw, rerr := loader.RawConfig()
		if rerr != nil {
			return nil, exit(ExitNoMesh, "kubeconfig: %w", rerr)
		}
		name = cmp.Or(a.kubeFlags.context, raw.CurrentContext)
	}
	if clientcmd.IsEmptyConfig(err) && a.kubeFlags.context == "" {
		if cfg, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
			return nil, exit(ExitNoMesh, "no cluster: there is no kubeconfig; set KUBECONFIG or --kubeconfig")
		}
		name = "in-cluster"
	}
	if err != nil {
		return nil, exit(ExitNoMesh, "kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.UserAgent = "lateen/" + a.Version
	cfg.WarningHandlerWithContext = nil
	cfg.WarningHandler = rest.NewWarningWriter(a.Stderr, rest.WarningWriterOptions{Deduplicate: true})
	namespace, _, err := loader.Namespace()
	if err != nil || namespace == "" {
		namespace = "default"
	}
	k := &kubeAccess{context: name, namespace: namespace, system: a.kubeFlags.system, config: cfg}
	if k.typed, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, exit(ExitNoMesh, "context %s: %w", name, err)
	}
	if k.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, exit(ExitNoMesh, "context %s: %w", name, err)
	}
	k.forward = func(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
		return dialPod(ctx, k.config, k.typed, namespace, pod, port)
	}
	return k, nil
}

// hasKube reports whether there is a cluster to talk about at all.
func (a *app) hasKube() bool {
	if a.openKube != nil {
		return true
	}
	raw, err := a.loader().RawConfig()
	if err == nil && (raw.CurrentContext != "" || len(raw.Clusters) > 0) {
		return true
	}
	return a.Getenv("KUBERNETES_SERVICE_HOST") != ""
}

// wantsKube reports whether the command line asks for a cluster.
func (a *app) wantsKube() bool { return a.kubeFlags.kubeconfig != "" || a.kubeFlags.context != "" }

// istiods are the running pods of the control plane, all revisions, by name.
func (k *kubeAccess) istiods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := k.typed.CoreV1().Pods(k.system).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return nil, &exitError{ExitNoMesh, fmt.Errorf("pods of the control plane in %s: %w", k.system, err)}
	}
	running := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil
	})
	slices.SortFunc(running, func(x, y corev1.Pod) int { return strings.Compare(x.Name, y.Name) })
	if len(running) == 0 {
		return nil, exit(ExitNoMesh, "no control plane runs in namespace %s of context %s: install one with `lateen install`", k.system, k.context)
	}
	return running, nil
}

// plane is a client of one control plane pod.
func (k *kubeAccess) plane(pod corev1.Pod) *api.Client {
	return api.NewClientOver("pod "+pod.Namespace+"/"+pod.Name, func(ctx context.Context) (net.Conn, error) {
		return k.forward(ctx, pod.Namespace, pod.Name, apiPort)
	})
}

// logs returns the last lines of a container's log.
func (k *kubeAccess) logs(ctx context.Context, namespace, pod, container string, lines int64) (string, error) {
	const most = 64 << 10
	body, err := k.typed.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, TailLines: &lines}).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, most))
	return string(b), err
}

// cluster is the access that an installation needs.
func (a *app) cluster(k *kubeAccess) *install.Cluster {
	return &install.Cluster{Dynamic: k.dynamic, Logs: k.logs, Progress: a.Stderr}
}
