// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"reflect"
	"slices"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lateen-mesh/lateen/internal/config"
)

// change takes what was read (nil: gone) and tells the watchers. The caller
// holds mu.
func (s *Store) change(changes map[config.Key]*item) {
	var events []config.Event
	reselect := false
	for k, now := range changes {
		old := s.items[k]
		if now == nil && old != nil && k.Kind == config.MeshConfig {
			// The mesh goes on as it is; an empty ConfigMap asks for the defaults.
			gone := *old
			gone.problems = []*config.Problem{{Severity: config.SeverityWarning, Object: k.String(),
				Message: "ConfigMap " + s.meshConfigMap() + " is gone; what it last said stays in force", Fix: "run lateen install, or create it"}}
			now = &gone
		}
		if now == nil && old == nil {
			continue
		}
		if now == nil {
			delete(s.items, k)
		} else {
			if old != nil && k.Kind != config.MeshConfig && isCluster(k.Kind) && sameObject(old.object, now.object) {
				continue // such as a node's heartbeat
			}
			s.items[k] = now
		}
		reselect = reselect || k.Kind == config.MeshConfig || k.Kind == config.Namespace
		if !s.visible(k) {
			continue
		}
		var before, after *config.Object
		if old != nil {
			before = old.object
		}
		if now != nil {
			after = now.object
		}
		if !sameObject(before, after) {
			events = append(events, config.Event{Key: k, Object: after})
		}
		s.report(k, old, now)
	}
	if reselect {
		// Rare, so all is told anew of the namespaces that come or go.
		events = s.reselect(events)
	}
	s.feed.Publish(events)
	close(s.moved)
	s.moved = make(chan struct{})
}

func isCluster(k *config.Kind) bool { return slices.Contains(config.ClusterKinds(), k) }

// report logs problems that are new and tells the watchers of reports.
func (s *Store) report(k config.Key, old, now *item) {
	if isCluster(k.Kind) {
		return
	}
	if now == nil {
		s.reports.publish(k, nil)
		return
	}
	var known []*config.Problem
	if old != nil {
		known = old.problems
		if old.generation == now.generation && reflect.DeepEqual(old.problems, now.problems) && reflect.DeepEqual(old.status, now.status) {
			return
		}
	}
	for _, p := range now.problems {
		if slices.ContainsFunc(known, func(q *config.Problem) bool { return *p == *q }) {
			continue
		}
		level := slog.LevelWarn
		if p.Severity == config.SeverityInfo {
			level = slog.LevelInfo
		}
		s.log.Log(context.Background(), level, "problem in configuration", "severity", p.Severity, "problem", p.Error())
	}
	s.reports.publish(k, now.report())
}

// visible reports whether a reader of the store sees the key. The caller holds mu.
func (s *Store) visible(k config.Key) bool {
	switch {
	case k.Kind == config.MeshConfig || s.selectors == nil:
		return true
	case k.Kind == config.Namespace:
		return s.selected(k.Name)
	}
	return k.Kind.ClusterScoped || s.selected(k.Namespace)
}

// selected reports whether the discovery selectors take in a namespace: any of
// them matches its labels (Istio's meshConfig.discoverySelectors).
func (s *Store) selected(namespace string) bool {
	if s.selectors == nil || namespace == s.opts.Namespace {
		return true
	}
	ns := s.items[config.Key{Kind: config.Namespace, Name: namespace}]
	if ns == nil || ns.object == nil {
		return false
	}
	return slices.ContainsFunc(s.selectors, func(l labels.Selector) bool { return l.Matches(labels.Set(ns.object.Labels)) })
}

// reselect reads the discovery selectors and, if the visible namespaces are
// others now, adds the events that make a reader see just those.
func (s *Store) reselect(events []config.Event) []config.Event {
	var now []labels.Selector
	if it := s.items[config.MeshConfigKey]; it != nil && it.object != nil {
		now = selectorsOf(it.object.Spec.(*meshv1alpha1.MeshConfig))
	}
	if now == nil && s.selectors == nil {
		return events
	}
	before := s.shown
	s.selectors = now
	s.shown = map[string]bool{}
	for k := range s.items {
		ns := k.Namespace
		if k.Kind == config.Namespace {
			ns = k.Name
		}
		if ns != "" && s.selected(ns) {
			s.shown[ns] = true
		}
	}
	told := map[config.Key]int{}
	for i, e := range events {
		told[e.Key] = i
	}
	for k, it := range s.items {
		ns := k.Namespace
		if k.Kind == config.Namespace {
			ns = k.Name
		}
		was := before == nil || before[ns]
		if ns == "" || k.Kind == config.MeshConfig || it.object == nil || was == s.shown[ns] {
			continue
		}
		e := config.Event{Key: k}
		if s.shown[ns] {
			e.Object = it.object
		}
		if i, there := told[k]; there {
			events[i] = e
		} else {
			events = append(events, e)
		}
		if s.shown[ns] {
			s.report(k, nil, it)
		} else {
			s.report(k, it, nil)
		}
	}
	if now == nil {
		s.shown = nil
	}
	return events
}

// selectorsOf returns the discovery selectors, nil if there are none. One that
// does not parse selects nothing: validation has refused it before.
func selectorsOf(m *meshv1alpha1.MeshConfig) []labels.Selector {
	var out []labels.Selector
	for _, d := range m.DiscoverySelectors {
		l := &metav1.LabelSelector{MatchLabels: d.MatchLabels}
		for _, e := range d.MatchExpressions {
			l.MatchExpressions = append(l.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values})
		}
		sel, err := metav1.LabelSelectorAsSelector(l)
		if err != nil {
			sel = labels.Nothing()
		}
		out = append(out, sel)
	}
	return out
}

// wasRead notes that all of a source was read. The caller holds mu.
func (s *Store) wasRead(source string) {
	if !s.waiting[source] {
		return
	}
	delete(s.waiting, source)
	if len(s.waiting) == 0 {
		select {
		case <-s.synced:
		default:
			close(s.synced)
		}
	}
}

// heard logs an outage of the API server once, and its end.
func (s *Store) heard(ctx context.Context, source string, err error) {
	if ctx.Err() != nil {
		return
	}
	// These say that the server is there.
	if err != nil && (apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err)) {
		return
	}
	if apierrors.IsForbidden(err) {
		s.log.Error("the API server refuses a read; look at the control plane's ClusterRole", "resource", source, "error", err)
		return
	}
	s.mu.Lock()
	changed := s.outage != (err != nil)
	s.outage = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && changed:
		s.log.Warn("the API server does not answer; the mesh goes on with what was read", "resource", source, "error", err)
	case changed:
		s.log.Info("the API server answers again")
	}
}
