// SPDX-License-Identifier: Apache-2.0

// Command kubernetes measures a mesh that is installed in a cluster: what its
// pods hold in memory, how soon a pod with a sidecar is ready, and how soon a
// change is with every sidecar. It runs where the cluster's API server is
// reached, with kubectl in PATH:
//
//	bin/lab run go run ./test/bench/kubernetes   # docs/lab.md
//
// It makes namespaces of its own and removes them. Nothing is judged: the
// machine decides, and one compares.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lateen-mesh/lateen/test/bench/kubernetes/population"
)

// The namespaces of a run. Pods of plain have no sidecar.
const (
	system   = "istio-system"
	bookinfo = "bench-bookinfo"
	idle     = "bench-idle"
	plain    = "bench-plain"
)

// settle is how long the cluster may take for what was asked of it.
const settle = 4 * time.Minute

type bench struct {
	samples    string
	kubeconfig string
	pods       int
	more       int
	rounds     int
	services   int

	config *rest.Config
	client kubernetes.Interface
}

func main() {
	var b bench
	flag.StringVar(&b.samples, "samples", os.Getenv("LATEEN_ISTIO_SAMPLES"), "directory that has Istio's samples directory")
	flag.StringVar(&b.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "the cluster, as administrator")
	flag.IntVar(&b.pods, "pods", 20, "pods to start")
	flag.IntVar(&b.more, "more", 30, "idle sidecars beside Bookinfo's")
	flag.IntVar(&b.rounds, "rounds", 20, "changes")
	flag.IntVar(&b.services, "services", 1000, "services to add; 0 leaves that part out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.samples == "" {
		return errors.New("set LATEEN_ISTIO_SAMPLES to Istio's samples, or use -samples")
	}
	if b.config, err = clientcmd.BuildConfigFromFlags("", b.kubeconfig); err != nil {
		return fmt.Errorf("-kubeconfig: %w", err)
	}
	b.config.QPS, b.config.Burst = 100, 200
	if b.client, err = kubernetes.NewForConfig(b.config); err != nil {
		return err
	}
	if _, err := b.client.AppsV1().Deployments(system).Get(ctx, "istiod", metav1.GetOptions{}); err != nil {
		return fmt.Errorf("no mesh: %w; lateen install --skip-confirmation", err)
	}
	defer func() { err = errors.Join(err, b.clean()) }()
	if err := b.namespaces(ctx); err != nil {
		return err
	}
	fmt.Printf("%-66s %26s   %s\n", "figure", "median (range), of", "goal")
	for _, step := range []func(context.Context) error{b.withBookinfo, b.starts, b.withMore, b.withServices} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) namespaces(ctx context.Context) error {
	for _, name := range []string{bookinfo, idle, plain} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		if name != plain {
			ns.Labels["istio-injection"] = "enabled"
		}
		if _, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) clean() error {
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	return b.kubectl(ctx, "delete", "namespace", bookinfo, idle, plain, "--ignore-not-found")
}

func (b *bench) withBookinfo(ctx context.Context) error {
	if err := b.kubectl(ctx, "apply", "-n", bookinfo, "-f", b.sample("bookinfo/platform/kube/bookinfo.yaml")); err != nil {
		return err
	}
	if err := b.available(ctx, bookinfo); err != nil {
		return err
	}
	if err := b.memory(ctx, time.Now(), "Bookinfo", "<= 16"); err != nil {
		return err
	}
	if err := b.kubectl(ctx, "apply", "-n", bookinfo, "-f", b.sample("bookinfo/networking/destination-rule-all.yaml"), "-f", b.sample("bookinfo/networking/virtual-service-all-v1.yaml")); err != nil {
		return err
	}
	return b.changes(ctx)
}

func (b *bench) withMore(ctx context.Context) error {
	if err := b.scale(ctx, idle, b.more); err != nil {
		return err
	}
	if err := b.available(ctx, idle); err != nil {
		return err
	}
	if err := b.memory(ctx, time.Now(), fmt.Sprintf("%d more sidecars", b.more), "<= 16"); err != nil {
		return err
	}
	return b.changes(ctx)
}

func (b *bench) withServices(ctx context.Context) error {
	if b.services == 0 {
		return nil
	}
	p, err := population.Create(ctx, b.config, population.Size{Services: b.services, Endpoints: 10, Namespaces: 50})
	if err != nil {
		return err
	}
	settled := func() error {
		plane, err := b.forward(ctx)
		if err != nil {
			return err
		}
		defer plane.stop()
		return plane.wait(ctx, nil)
	}()
	err = errors.Join(settled, b.memory(ctx, time.Now(), fmt.Sprintf("and %d services", b.services), "<= 40"))
	return errors.Join(err, p.Remove())
}

func (b *bench) sample(path string) string { return filepath.Join(b.samples, "samples", path) }

// kubectl runs kubectl and returns what it says when it fails.
func (b *bench) kubectl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", b.kubeconfig}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
	}
	return nil
}

func (b *bench) available(ctx context.Context, namespace string) error {
	return b.kubectl(ctx, "wait", "-n", namespace, "deployment", "--all", "--for=condition=Available", "--timeout="+settle.String())
}

func (b *bench) scale(ctx context.Context, namespace string, replicas int) error {
	return b.kubectl(ctx, "scale", "-n", namespace, "deployment/curl", fmt.Sprint("--replicas=", replicas))
}

// report prints one figure.
func report(name, goal string, v []float64) {
	if len(v) == 0 {
		fmt.Printf("%-66s %26s   %s\n", name, "none", goal)
		return
	}
	slices.Sort(v)
	fmt.Printf("%-66s %26s   %s\n", name, fmt.Sprintf("%.1f (%.1f to %.1f), %d", v[len(v)/2], v[0], v[len(v)-1], len(v)), goal)
}
