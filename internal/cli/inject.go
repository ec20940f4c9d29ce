// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/inject"
	"github.com/lateen-mesh/lateen/internal/install"
)

type injectFlags struct {
	filename, output                   string
	injectConfigFile, injectConfigMap  string
	valuesFile, meshConfigFile         string
	meshConfigMap, revision, nativeArg string
	sets                               []string
}

func (a *app) injectCmd() *cobra.Command {
	var f injectFlags
	c := &cobra.Command{
		Use:     "inject -f FILE",
		Aliases: []string{"kube-inject"},
		Short:   "Add the sidecar to the pods in a manifest",
		Long: `Inject adds the sidecar to the pods and pod templates in a manifest (Deployment,
StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job, CronJob, Pod,
and lists of them) and prints it. Everything else comes out as it went in, and
so does what has its sidecar already: to give it a newer one, inject the original
manifest again. What is left alone is named on standard error, with the reason.

The settings are those of the control plane in the cluster. With --set, or where
there is no cluster, they are those that ` + "`lateen install`" + ` with the same --set would
give it; files given by --injectConfigFile, --valuesFile and --meshConfigFile win.

A labelled namespace (istio-injection=enabled) needs none of this: there pods get
their sidecar when they are made.`,
		Example: `  lateen inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployments -o yaml | lateen kube-inject -f - | kubectl apply -f -
  lateen inject -f app.yaml -o app-injected.yaml --set hub=registry.example.com/mesh --set tag=1.2.3`,
		Args: cobra.NoArgs,
		RunE: verb(func([]string) error { return a.inject(f) }),
	}
	a.namespaced(c)
	fl := c.Flags()
	fl.StringVarP(&f.filename, "filename", "f", "", "manifest to inject into; - is standard input")
	fl.StringVarP(&f.output, "output", "o", "", "file to write to (default: standard output)")
	a.injectSources(c, &f)
	fl.StringVar(&f.injectConfigFile, "injectConfigFile", "", "file with the injector's settings (key config of its ConfigMap)")
	fl.StringVar(&f.valuesFile, "valuesFile", "", "file with the injector's values (key values of its ConfigMap)")
	fl.StringVar(&f.meshConfigFile, "meshConfigFile", "", "file with the mesh's configuration")
	fl.StringArrayVar(&f.sets, "set", nil, "setting as of `lateen install`, PATH=VALUE; the cluster is then not asked")
	fl.StringVar(&f.nativeArg, "native-sidecar", "", "auto, true or false: make the sidecar an init container that restarts (default: as the mesh says)")
	c.AddCommand(a.injectExplainCmd())
	return c
}

// injectSources adds the flags that say where in the cluster the settings are.
func (a *app) injectSources(c *cobra.Command, f *injectFlags) {
	c.Flags().StringVar(&f.injectConfigMap, "injectConfigMapName", "", "ConfigMap with the injector's settings (default istio-sidecar-injector[-REVISION])")
	c.Flags().StringVar(&f.meshConfigMap, "meshConfigMapName", "", "ConfigMap with the mesh's configuration (default istio[-REVISION])")
	c.Flags().StringVarP(&f.revision, "revision", "r", "", "control plane revision")
}

func (a *app) inject(f injectFlags) error {
	if f.filename == "" {
		return exit(ExitUsage, "-f is missing: name a manifest, or - for standard input")
	}
	data, err := a.readInput(f.filename)
	if err != nil {
		return exit(ExitBadInput, "-f %s: %w", f.filename, err)
	}
	in, err := a.injectInput(&f)
	if err != nil {
		return err
	}
	out, outcomes, err := inject.Documents(data, in)
	if err != nil {
		return exit(ExitBadInput, "%s: %w", f.filename, err)
	}
	for _, o := range outcomes {
		if !o.Decision.Inject {
			a.errorf("note: %s is left alone: %s", o.Object, o.Decision.Reason)
		}
		for _, w := range o.Warnings {
			a.errorf("warning: %s: %s", o.Object, w)
		}
	}
	if f.output == "" || f.output == "-" {
		_, err = a.Stdout.Write(out)
		return err
	}
	return os.WriteFile(f.output, out, 0o644)
}

// injectInput finds the settings: files, else the cluster, else what an
// installation would have.
func (a *app) injectInput(f *injectFlags) (inject.Input, error) {
	in := inject.Input{Namespace: inject.Namespace{Name: cmp.Or(a.namespace, config.DefaultNamespace)}}
	texts, err := f.readFiles(a)
	if err != nil {
		return in, err
	}
	var kubelets []string
	whole := f.injectConfigFile != "" && f.valuesFile != "" && f.meshConfigFile != ""
	switch {
	case whole:
	case len(f.sets) == 0 && a.hasKube():
		k, err := a.kube()
		if err != nil {
			return in, err
		}
		ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
		defer cancel()
		in.Namespace.Name = cmp.Or(a.namespace, k.namespace)
		if err := k.injectTexts(ctx, f, texts); err != nil {
			return in, err
		}
		if kubelets, err = k.kubelets(ctx); err != nil {
			a.errorf("warning: the nodes cannot be listed, so no native sidecars are used unless --native-sidecar says so: %v", err)
		}
		if in.ProxyConfigs, err = k.proxyConfigs(ctx, ""); err != nil {
			return in, err
		}
	default:
		if len(f.sets) == 0 {
			a.errorf("note: there is no cluster; the settings are those of a default installation (--set changes them)")
		}
		if err := a.planTexts(f, texts); err != nil {
			return in, err
		}
	}
	if in.Settings, in.Mesh, err = parseInjection(texts); err != nil {
		return in, err
	}
	in.Settings.KubeletVersions = kubelets
	if in.Settings.Tag == "" {
		in.Settings.Tag = a.Version
	}
	if f.nativeArg != "" {
		if err := in.Settings.SetNative(f.nativeArg); err != nil {
			return in, exit(ExitUsage, "--native-sidecar %q: use auto, true or false", f.nativeArg)
		}
	}
	return in, nil
}

// injectTexts are the three documents that settings come from, by key.
type injectTexts map[string][]byte

const meshKey = "mesh"

func (f *injectFlags) readFiles(a *app) (injectTexts, error) {
	out := injectTexts{}
	for key, name := range map[string]string{inject.ConfigKey: f.injectConfigFile, inject.ValuesKey: f.valuesFile, meshKey: f.meshConfigFile} {
		if name == "" {
			continue
		}
		b, err := a.readInput(name)
		if err != nil {
			return nil, exit(ExitBadInput, "%w", err)
		}
		out[key] = b
	}
	return out, nil
}

// add keeps what a file has given.
func (t injectTexts) add(data map[string]string, keys ...string) {
	for _, k := range keys {
		if _, ok := t[k]; !ok {
			t[k] = []byte(data[k])
		}
	}
}

// planTexts takes the settings from the objects an installation would make.
func (a *app) planTexts(f *injectFlags, texts injectTexts) error {
	p, err := install.NewPlan(install.Options{Set: f.sets, Revision: f.revision, Version: a.Version})
	if err != nil {
		return exit(ExitUsage, "%w", err)
	}
	for _, o := range p.Objects {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		data := map[string]string{}
		if m, ok := o.Object["data"].(map[string]any); ok {
			for k, v := range m {
				data[k], _ = v.(string)
			}
		}
		switch name := o.GetName(); {
		case strings.HasPrefix(name, injectorMap):
			texts.add(data, inject.ConfigKey, inject.ValuesKey)
		case name == meshMap || strings.HasPrefix(name, meshMap+"-") && data[meshKey] != "":
			texts.add(data, meshKey)
		}
	}
	return nil
}

func parseInjection(texts injectTexts) (*inject.Settings, *meshv1alpha1.MeshConfig, error) {
	s, err := inject.ParseSettings(texts[inject.ConfigKey], texts[inject.ValuesKey])
	if err != nil {
		return nil, nil, exit(ExitBadInput, "%w", err)
	}
	mesh := config.DefaultMeshConfig()
	if text := texts[meshKey]; len(bytes.TrimSpace(text)) > 0 {
		r := config.Decode(text, config.MeshConfigFile, "")
		if err := config.Errors(r.Problems); err != nil {
			return nil, nil, exit(ExitBadInput, "mesh configuration: %w", err)
		}
		for _, o := range r.Objects {
			if m, ok := o.Spec.(*meshv1alpha1.MeshConfig); ok {
				mesh = m
			}
		}
	}
	return s, mesh, nil
}

// The ConfigMaps of a control plane; those of a revision end in -REVISION.
const (
	injectorMap = "istio-sidecar-injector"
	meshMap     = "istio"
)

func ofRevision(name, revision string) string {
	if revision == "" || revision == "default" {
		return name
	}
	return name + "-" + revision
}

// injectTexts reads the ConfigMaps of the control plane.
func (k *kubeAccess) injectTexts(ctx context.Context, f *injectFlags, texts injectTexts) error {
	for _, m := range []struct {
		name string
		keys []string
	}{
		{cmp.Or(f.injectConfigMap, ofRevision(injectorMap, f.revision)), []string{inject.ConfigKey, inject.ValuesKey}},
		{cmp.Or(f.meshConfigMap, ofRevision(meshMap, f.revision)), []string{meshKey}},
	} {
		if !slices.ContainsFunc(m.keys, func(key string) bool { _, ok := texts[key]; return !ok }) {
			continue
		}
		cm, err := k.typed.CoreV1().ConfigMaps(k.system).Get(ctx, m.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return exit(ExitNoMesh, "there is no ConfigMap %s in namespace %s of context %s: install a mesh with `lateen install`, name a revision with --revision, or give --set", m.name, k.system, k.context)
		}
		if err != nil {
			return exit(ExitNoMesh, "ConfigMap %s/%s: %w", k.system, m.name, err)
		}
		texts.add(cm.Data, m.keys...)
	}
	return nil
}

// kubelets are the versions of the nodes.
func (k *kubeAccess) kubelets(ctx context.Context) ([]string, error) {
	list, err := k.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range list.Items {
		out = append(out, n.Status.NodeInfo.KubeletVersion)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// proxyConfigs lists the objects of kind ProxyConfig; a namespace of "" is all.
// A cluster without the kind has none.
func (k *kubeAccess) proxyConfigs(ctx context.Context, namespace string) ([]*config.Object, error) {
	kind := config.ProxyConfig
	r := schema.GroupVersionResource{Group: kind.Group, Version: kind.Versions[0], Resource: kind.Plural}
	list, err := k.dynamic.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, exit(ExitNoMesh, "%s: %w", kind.Plural, err)
	}
	b, err := json.Marshal(list.UnstructuredContent())
	if err != nil {
		return nil, err
	}
	return config.Decode(b, "", "").Objects, nil
}

func (a *app) injectExplainCmd() *cobra.Command {
	var f injectFlags
	var output string
	c := &cobra.Command{
		Use:   "explain POD",
		Short: "Say why a pod has its sidecar, or has not",
		Long: `Explain says which rule decided whether a pod in the cluster got its sidecar: the
labels by which the webhook is called, then the injector's own rules; and what to
do where the pod is not as the rules are today. The exit code is 2 where it is not.`,
		Example: `  lateen inject explain web-5d4c7b6f9-x2x7k
  lateen inject explain web-5d4c7b6f9-x2x7k.shop
  lateen inject explain pod/web-0 -n shop -o json`,
		Args: cobra.ExactArgs(1),
		RunE: verb(func(args []string) error { return a.injectExplain(args[0], f, output) }),
	}
	a.namespaced(c)
	a.injectSources(c, &f)
	c.Flags().StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return c
}

func (a *app) injectExplain(pod string, f injectFlags, output string) error {
	if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
		return err
	}
	k, err := a.kube()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.timeout)
	defer cancel()
	name, namespace, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(pod, "pod/"), "pods/"), ".")
	namespace = cmp.Or(namespace, a.namespace, k.namespace)
	in, err := k.explainInput(ctx, namespace, name, &f)
	if err != nil {
		return err
	}
	e, err := inject.Explain(in)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		err = writeJSON(a.Stdout, e)
	case "yaml":
		err = writeYAML(a.Stdout, e)
	default:
		err = a.printExplanation(e)
	}
	if err == nil && e.Injected != (e.Asked && e.Decision.Inject) {
		return reported(ExitFindings)
	}
	return err
}

// explainInput reads a pod, its namespace and the settings of the revision that
// their labels name.
func (k *kubeAccess) explainInput(ctx context.Context, namespace, name string, f *injectFlags) (inject.Input, error) {
	in := inject.Input{Namespace: inject.Namespace{Name: namespace}}
	var err error
	if in.Pod, err = k.typed.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
		return in, k.explainError("pod "+namespace+"/"+name, err)
	}
	ns, err := k.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return in, k.explainError("namespace "+namespace, err)
	}
	in.Namespace.Labels, in.Namespace.Annotations = ns.Labels, ns.Annotations
	if f.revision == "" {
		f.revision = revisionOf(ns.Labels, in.Pod)
	}
	texts := injectTexts{}
	if err := k.injectTexts(ctx, f, texts); err != nil {
		return in, err
	}
	if in.Settings, in.Mesh, err = parseInjection(texts); err != nil {
		return in, err
	}
	if in.Settings.KubeletVersions, err = k.kubelets(ctx); err != nil {
		return in, k.explainError("nodes", err)
	}
	in.ProxyConfigs, err = k.proxyConfigs(ctx, "")
	return in, err
}

func (k *kubeAccess) explainError(what string, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return exit(ExitFailed, "%s: %w", what, err)
	}
	return exit(ExitNoMesh, "%s: context %s does not answer: %w", what, k.context, err)
}

// revisionOf is the revision whose webhook would be called.
func revisionOf(namespace map[string]string, pod *corev1.Pod) string {
	if _, ok := namespace[inject.NamespaceLabel]; ok {
		return ""
	}
	return cmp.Or(namespace[inject.RevisionLabel], pod.Labels[inject.RevisionLabel])
}

func (a *app) printExplanation(e inject.Explanation) error {
	var b strings.Builder
	yes := func(v bool) string {
		if v {
			return "yes"
		}
		return "no"
	}
	fmt.Fprintf(&b, "%s: %s\n\n", e.Pod, e.Conclusion)
	fmt.Fprintf(&b, "webhook called: %s, %s\n", yes(e.Asked), e.AskedBecause)
	fmt.Fprintf(&b, "injector:       %s, %s (%s)\n", yes(e.Decision.Inject), e.Decision.Reason, e.Decision.Rule)
	for _, w := range e.Warnings {
		fmt.Fprintf(&b, "warning:        %s\n", w)
	}
	if e.Error != "" {
		fmt.Fprintf(&b, "error:          %s\n", e.Error)
	}
	if e.Fix != "" {
		fmt.Fprintf(&b, "to change it:   %s\n", e.Fix)
	}
	_, err := a.Stdout.Write([]byte(b.String()))
	return err
}
