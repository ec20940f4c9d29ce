// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Gate stands before the graph and never lets bad configuration replace good:
//
//   - a VirtualService that comes to name a subset that does not exist keeps
//     the version it had before;
//   - a subset that goes away while a VirtualService in force still names it is
//     held in its DestinationRule (or what is left of a deleted one);
//   - a Secret whose certificate no longer fits its key keeps the version
//     before.
//
// What it lets through is a set of ordinary objects, so that everything behind
// it stays a pure function. It is not safe for concurrent use.
type Gate struct {
	started   bool
	current   map[config.Key]*config.Object // VirtualServices and DestinationRules as the user has them
	effective map[config.Key]*config.Object // and as they are in force
	held      []Held
	secrets   map[config.Key]*config.Object // in force
	stale     map[config.Key]string         // Secrets that are held, and why
}

// Held is an object that is not in force as the user has it.
type Held struct {
	Key    config.Key
	Reason string
}

// NewGate returns a gate that has seen nothing. Its first batch passes as it is:
// there is no last good version yet.
func NewGate() *Gate {
	return &Gate{
		current: map[config.Key]*config.Object{}, effective: map[config.Key]*config.Object{},
		secrets: map[config.Key]*config.Object{}, stale: map[config.Key]string{},
	}
}

// Held lists what is held back now, by key.
func (g *Gate) Held() []Held {
	out := slices.Clone(g.held)
	for k, why := range g.stale {
		out = append(out, Held{k, why})
	}
	slices.SortFunc(out, func(a, b Held) int { return cmp.Or(a.Key.Compare(b.Key), cmp.Compare(a.Reason, b.Reason)) })
	return out
}

// passSecret tells whether the change of a Secret comes into force.
func (g *Gate) passSecret(e config.Event) bool {
	delete(g.stale, e.Key)
	if e.Object == nil {
		delete(g.secrets, e.Key)
		return true
	}
	if err := CheckSecret(e.Object); err != nil && g.secrets[e.Key] != nil {
		g.stale[e.Key] = err.Error() + "; the version before stays in force"
		return false
	} else if err == nil {
		g.secrets[e.Key] = e.Object
	}
	return true
}

// Dangling lists what is in force although it names a subset that does not
// exist, for it has no better version: its requests fail until the subset comes.
func (g *Gate) Dangling() []Held {
	exists := newSubsetTable(g.effective)
	var out []Held
	for k, o := range g.effective {
		if k.Kind != config.VirtualService {
			continue
		}
		if missing := exists.missing(o); len(missing) > 0 {
			out = append(out, Held{k, "routes to " + describe(missing) + ", which no DestinationRule has; such requests are answered 503"})
		}
	}
	slices.SortFunc(out, func(a, b Held) int { return a.Key.Compare(b.Key) })
	return out
}

func gated(k config.Key) bool {
	return k.Kind == config.VirtualService || k.Kind == config.DestinationRule
}

// Pass takes a batch of the user's changes and returns the changes to what is in force.
func (g *Gate) Pass(batch []config.Event) []config.Event {
	var out []config.Event
	concerned := false
	for _, e := range batch {
		if e.Key.Kind == config.Secret && !g.passSecret(e) {
			continue
		}
		if !gated(e.Key) {
			out = append(out, e)
			continue
		}
		concerned = true
		if e.Object == nil {
			delete(g.current, e.Key)
		} else {
			g.current[e.Key] = e.Object
		}
	}
	if !concerned && g.started {
		return out
	}
	next := g.judge()
	g.started = true
	for k, o := range next {
		if g.effective[k] != o {
			out = append(out, config.Event{Key: k, Object: o})
		}
	}
	for k := range g.effective {
		if next[k] == nil {
			out = append(out, config.Event{Key: k})
		}
	}
	g.effective = next
	slices.SortFunc(out, func(a, b config.Event) int { return a.Key.Compare(b.Key) })
	return out
}

// subsetRef is a subset that a route goes to.
type subsetRef struct{ host, subset string }

// judge decides what is in force, given what was.
func (g *Gate) judge() map[config.Key]*config.Object {
	g.held = nil
	next := make(map[config.Key]*config.Object, len(g.current))
	exists := newSubsetTable(g.current)
	needed := map[subsetRef]config.Key{}
	for k, o := range g.current {
		if k.Kind != config.VirtualService {
			continue
		}
		inForce := o
		if prev := g.effective[k]; g.started && prev != nil && prev != o {
			if missing := exists.missing(o); len(missing) > 0 {
				inForce = prev
				g.hold(k, "names %s, which no DestinationRule has; the version before stays in force", describe(missing))
			}
		}
		next[k] = inForce
		for _, r := range subsetRefs(inForce) {
			needed[r] = k
		}
	}
	for k, o := range g.current {
		if k.Kind == config.DestinationRule {
			next[k] = g.withHeld(k, o, exists, needed)
		}
	}
	for k, prev := range g.effective {
		if k.Kind == config.DestinationRule && g.current[k] == nil {
			if o := g.withHeld(k, remainder(prev), exists, needed); len(o.Spec.(*networking.DestinationRule).Subsets) > 0 {
				next[k] = o
			}
		}
	}
	slices.SortFunc(g.held, func(a, b Held) int { return cmp.Or(a.Key.Compare(b.Key), cmp.Compare(a.Reason, b.Reason)) })
	return next
}

func (g *Gate) hold(k config.Key, format string, args ...any) {
	g.held = append(g.held, Held{k, fmt.Sprintf(format, args...)})
}

// remainder is a deleted DestinationRule without anything that may be left out.
func remainder(o *config.Object) *config.Object {
	c := o.Clone()
	spec := o.Spec.(*networking.DestinationRule)
	c.Spec = &networking.DestinationRule{Host: spec.Host, ExportTo: spec.ExportTo, WorkloadSelector: spec.WorkloadSelector}
	c.ResourceVersion = "deleted"
	return c
}

// withHeld adds the subsets that its version in force had, that nobody has any
// more, and that a VirtualService in force goes to.
func (g *Gate) withHeld(k config.Key, o *config.Object, exists *subsetTable, needed map[subsetRef]config.Key) *config.Object {
	prev := g.effective[k]
	if prev == nil || prev == o {
		return o
	}
	host := FQDN(o.Spec.(*networking.DestinationRule).Host, o.Namespace)
	old := prev.Spec.(*networking.DestinationRule)
	if FQDN(old.Host, prev.Namespace) != host {
		return o
	}
	var kept []*networking.Subset
	for _, s := range old.Subsets {
		by, used := neededBy(needed, host, s.Name)
		if !used || exists.has(subsetRef{host, s.Name}) {
			continue
		}
		s = proto.Clone(s).(*networking.Subset)
		if s.TrafficPolicy == nil {
			s.TrafficPolicy = old.TrafficPolicy
		}
		kept = append(kept, s)
		g.hold(k, "subset %q is gone, but %s still routes to it; it stays in force until it does not", s.Name, by)
	}
	if len(kept) == 0 {
		return o
	}
	c := o.Clone()
	spec := proto.Clone(o.Spec.(proto.Message)).(*networking.DestinationRule)
	spec.Subsets = append(spec.Subsets, kept...)
	c.Spec = spec
	names := make([]string, len(kept))
	for i, s := range kept {
		names[i] = s.Name
	}
	c.ResourceVersion = "held " + strings.Join(names, ",") + " over " + o.ResourceVersion
	if proto.Equal(spec, old) {
		return prev // as it was: nothing to do behind the gate
	}
	return c
}

func neededBy(needed map[subsetRef]config.Key, host, subset string) (config.Key, bool) {
	if !strings.HasPrefix(host, "*") {
		k, ok := needed[subsetRef{host, subset}]
		return k, ok
	}
	var by config.Key
	found := false
	for r, k := range needed {
		if r.subset == subset && hostMatches(host, r.host) && (!found || k.Compare(by) < 0) {
			by, found = k, true
		}
	}
	return by, found
}

// subsetTable tells which subsets exist in the user's DestinationRules.
type subsetTable struct {
	exact map[subsetRef]bool
	wild  []subsetRef
}

func newSubsetTable(objects map[config.Key]*config.Object) *subsetTable {
	t := &subsetTable{exact: map[subsetRef]bool{}}
	for k, o := range objects {
		if k.Kind != config.DestinationRule {
			continue
		}
		spec := o.Spec.(*networking.DestinationRule)
		host := FQDN(spec.Host, o.Namespace)
		for _, s := range spec.Subsets {
			if strings.HasPrefix(host, "*") {
				t.wild = append(t.wild, subsetRef{host, s.Name})
			} else {
				t.exact[subsetRef{host, s.Name}] = true
			}
		}
	}
	return t
}

func (t *subsetTable) has(r subsetRef) bool {
	return t.exact[r] || slices.ContainsFunc(t.wild, func(w subsetRef) bool { return w.subset == r.subset && hostMatches(w.host, r.host) })
}

func (t *subsetTable) missing(vs *config.Object) []subsetRef {
	return slices.DeleteFunc(subsetRefs(vs), t.has)
}

func describe(refs []subsetRef) string {
	var out []string
	for _, r := range refs {
		out = append(out, fmt.Sprintf("subset %q of %s", r.subset, r.host))
	}
	return strings.Join(out, " and ")
}

// subsetRefs lists the subsets that a VirtualService routes to.
func subsetRefs(o *config.Object) []subsetRef {
	var out []subsetRef
	for _, d := range destinations(o) {
		if r := (subsetRef{FQDN(d.Host, o.Namespace), d.Subset}); d.Subset != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}
