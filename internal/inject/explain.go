// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"slices"
)

// Explanation says in words what became of a pod, and why.
type Explanation struct {
	Pod string `json:"pod"`
	// Asked: a webhook of this revision is called for the pod, and AskedBecause
	// which of its rules, or why none.
	Asked        bool   `json:"asked"`
	AskedBecause string `json:"askedBecause"`
	// Decision is the injector's, as if it were asked.
	Decision Decision `json:"decision"`
	// Injected: the pod as it is has its proxy.
	Injected bool `json:"injected"`
	// Conclusion is one sentence on pod as it is.
	Conclusion string `json:"conclusion"`
	// Fix is what to do to change it; empty when there is nothing to.
	Fix      string   `json:"fix,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Error is what would make an injection fail.
	Error string `json:"error,omitempty"`
}

// Asked tells whether the webhook configuration of a revision has the API server
// ask about a pod, as the rules in MutatingWebhookConfiguration
// istio-sidecar-injector say. byDefault is enableNamespacesByDefault.
func Asked(namespace, pod map[string]string, revision string, byDefault bool) (bool, string) {
	injection, hasInjection := namespace[NamespaceLabel]
	rev, hasRev := namespace[RevisionLabel]
	choice, hasChoice := pod[InjectName]
	podRev, hasPodRev := pod[RevisionLabel]
	switch {
	case choice == "false":
		return false, fmt.Sprintf("the pod's label %s is \"false\"", InjectName)
	case injection == "enabled" && revision != "default":
		return false, fmt.Sprintf("the namespace's label %s=enabled calls the revision default, not %s", NamespaceLabel, revision)
	case injection == "enabled":
		return true, fmt.Sprintf("the namespace has the label %s=enabled", NamespaceLabel)
	case hasInjection:
		return false, fmt.Sprintf("the namespace has the label %s=%s", NamespaceLabel, injection)
	case hasRev && rev == revision:
		return true, fmt.Sprintf("the namespace has the label %s=%s", RevisionLabel, rev)
	case hasRev:
		return false, fmt.Sprintf("the namespace's label %s=%s names another revision than %s", RevisionLabel, rev, revision)
	case hasPodRev && podRev == revision:
		return true, fmt.Sprintf("the pod has the label %s=%s", RevisionLabel, podRev)
	case hasPodRev:
		return false, fmt.Sprintf("the pod's label %s=%s names another revision than %s", RevisionLabel, podRev, revision)
	case revision != "default":
		return false, fmt.Sprintf("neither the namespace nor the pod has the label %s=%s", RevisionLabel, revision)
	case hasChoice && choice == "true":
		return true, fmt.Sprintf("the pod has the label %s=true", InjectName)
	case hasChoice:
		return false, fmt.Sprintf("the pod's label %s is %q; the webhook is called for \"true\" alone", InjectName, choice)
	case byDefault:
		return true, "the mesh injects into every namespace that does not say otherwise (enableNamespacesByDefault)"
	}
	return false, fmt.Sprintf("neither the namespace (%s=enabled, %s=%s) nor the pod (%s=true) asks for it",
		NamespaceLabel, RevisionLabel, revision, InjectName)
}

// Explain says which rule decided about a pod. A pod that was injected is
// explained as it came, before its injection.
func Explain(in Input) (Explanation, error) {
	if in.Pod == nil || in.Settings == nil {
		_, err := newInjection(&in)
		return Explanation{}, err
	}
	e := Explanation{Injected: injected(in.Pod)}
	before := in
	if e.Injected {
		before.Pod = in.Pod.DeepCopy()
		delete(before.Pod.Annotations, StatusName)
	}
	i, err := newInjection(&before)
	if err != nil {
		return e, err
	}
	e.Pod = first(in.Namespace.Name, in.Pod.Namespace) + "/" + first(in.Pod.Name, in.Pod.GenerateName)
	e.Asked, e.AskedBecause = Asked(in.Namespace.Labels, in.Pod.Labels, in.Settings.Revision, in.Settings.NamespacesByDefault)
	e.Decision = decide(i)
	if r, err := Inject(before); err != nil {
		e.Error = err.Error()
	} else {
		e.Warnings = r.Warnings
	}
	e.conclude(&in)
	return e, nil
}

func (e *Explanation) conclude(in *Input) {
	wanted := e.Asked && e.Decision.Inject
	switch {
	case e.Injected && wanted:
		e.Conclusion = "the pod has its proxy: " + e.AskedBecause
	case e.Injected:
		e.Conclusion = "the pod has its proxy, though it would get none today: it was injected by hand, or before a label changed"
	case e.Error != "" && wanted:
		e.Conclusion, e.Fix = "the pod has no proxy: its settings cannot be followed", "correct what the error names, and make the pod anew"
	case wanted:
		e.Conclusion = "the pod has no proxy, but would get one today: it was made before the labels, or while the injector was away"
		e.Fix = restart(in)
	case !e.Decision.Inject:
		e.Conclusion = "the pod gets no proxy: " + e.Decision.Reason
		e.Fix = e.decisionFix()
	default:
		e.Conclusion = "the pod gets no proxy: " + e.AskedBecause
		e.Fix = fmt.Sprintf("kubectl label namespace %s %s=enabled --overwrite, then %s", first(in.Namespace.Name, in.Pod.Namespace, "default"), NamespaceLabel, restart(in))
		if r := in.Settings.Revision; r != "default" {
			e.Fix = fmt.Sprintf("kubectl label namespace %s %s- %s=%s --overwrite, then %s", first(in.Namespace.Name, in.Pod.Namespace, "default"), NamespaceLabel, RevisionLabel, r, restart(in))
		}
	}
}

func (e *Explanation) decisionFix() string {
	switch e.Decision.Rule {
	case RuleHostNetwork:
		return "remove hostNetwork from the pod template"
	case RuleLabel:
		return fmt.Sprintf("set the label %s: \"true\" in the pod template, or remove it", InjectName)
	case RuleAnnotation:
		return fmt.Sprintf("remove the annotation %s from the pod template", InjectName)
	case RulePolicy:
		return fmt.Sprintf("set the label %s: \"true\" in the pod template", InjectName)
	case RuleNever:
		return fmt.Sprintf("set the label %s: \"true\" in the pod template, or change neverInjectSelector", InjectName)
	}
	return ""
}

// restart is the command that makes a workload's pods anew.
func restart(in *Input) string {
	w := workloadOf(in)
	ns := first(in.Namespace.Name, in.Pod.Namespace, "default")
	switch {
	case slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, w.Kind):
		kind := map[string]string{"Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}[w.Kind]
		return fmt.Sprintf("kubectl rollout restart %s/%s -n %s", kind, w.Name, ns)
	default:
		return "delete the pod and make it anew"
	}
}
