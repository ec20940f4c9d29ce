// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
)

// clusterStatus writes statuses to the API server.
type clusterStatus struct{ client dynamic.Interface }

func (w *clusterStatus) WriteStatus(ctx context.Context, key config.Key, generation int64, merge Merge) error {
	var client dynamic.ResourceInterface = w.client.Resource(resourceOf(key.Kind, "v1"))
	if key.Namespace != "" {
		client = w.client.Resource(resourceOf(key.Kind, "v1")).Namespace(key.Namespace)
	}
	live, err := client.Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if live.GetGeneration() != generation {
		return nil // what it is now has its own turn
	}
	stored, _ := live.Object["status"].(map[string]any)
	status := merge(stored)
	if status == nil {
		return nil
	}
	live.Object["status"] = status
	_, err = client.UpdateStatus(ctx, live, metav1.UpdateOptions{FieldManager: manager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// plain turns a value of the API into what JSON makes of it.
func plain(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		return nil
	}
	return out
}

func list(m map[string]any, key string) []any {
	l, _ := m[key].([]any)
	return l
}

// unlike returns now unless it is what is stored.
func unlike(stored, now map[string]any) map[string]any {
	if reflect.DeepEqual(plain(stored), plain(now)) {
		return nil
	}
	// The numbers of an unstructured object are int64.
	return integers(plain(now)).(map[string]any)
}

func integers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		return int64(v)
	}
	return v
}

// conditions puts ours among those that are stored. A condition whose status is
// as it was keeps its time; types that we do not write are somebody else's and
// stay, but for those in ours that no longer hold.
func conditions(stored []any, now []metav1.Condition, clock func() time.Time, ours ...string) []any {
	var out []any
	old := map[string]map[string]any{}
	written := map[string]bool{}
	for _, c := range now {
		written[c.Type] = true
	}
	for _, t := range ours {
		written[t] = true
	}
	for _, s := range stored {
		c, _ := s.(map[string]any)
		t, _ := c["type"].(string)
		old[t] = c
		if !written[t] {
			out = append(out, c)
		}
	}
	for i := range now {
		c := now[i]
		c.LastTransitionTime = metav1.NewTime(clock().UTC().Truncate(time.Second))
		m, _ := plain(c).(map[string]any)
		if was := old[c.Type]; was != nil && was["status"] == string(c.Status) && was["lastTransitionTime"] != nil {
			m["lastTransitionTime"] = was["lastTransitionTime"]
		}
		out = append(out, m)
	}
	return out
}

func copyOf(stored map[string]any) map[string]any {
	out := maps.Clone(stored)
	if out == nil {
		out = map[string]any{}
	}
	return out
}

func classMerge(now []metav1.Condition, clock func() time.Time) Merge {
	return func(stored map[string]any) map[string]any {
		out := copyOf(stored)
		out["conditions"] = conditions(list(stored, "conditions"), now, clock)
		return unlike(stored, out)
	}
}

func gatewayMerge(now v1.GatewayStatus, clock func() time.Time) Merge {
	return func(stored map[string]any) map[string]any {
		out := copyOf(stored)
		out["conditions"] = conditions(list(stored, "conditions"), now.Conditions, clock)
		delete(out, "addresses")
		if len(now.Addresses) > 0 {
			out["addresses"] = plain(now.Addresses)
		}
		old := map[string]map[string]any{}
		for _, s := range list(stored, "listeners") {
			if l, ok := s.(map[string]any); ok {
				name, _ := l["name"].(string)
				old[name] = l
			}
		}
		var listeners []any
		for i := range now.Listeners {
			l := &now.Listeners[i]
			m, _ := plain(l).(map[string]any)
			m["conditions"] = conditions(list(old[string(l.Name)], "conditions"), l.Conditions, clock)
			listeners = append(listeners, m)
		}
		out["listeners"] = listeners
		return unlike(stored, out)
	}
}

// routeMerge replaces our parents' statuses and leaves those of other
// controllers, in the order of the list: ours last.
func routeMerge(now []v1.RouteParentStatus, clock func() time.Time) Merge {
	return func(stored map[string]any) map[string]any {
		out := copyOf(stored)
		parents := []any{}
		var old []map[string]any
		for _, s := range list(stored, "parents") {
			p, _ := s.(map[string]any)
			if p["controllerName"] == gatewayapi.Controller {
				old = append(old, p)
			} else {
				parents = append(parents, s)
			}
		}
		if len(now) == 0 && len(old) == 0 {
			return nil // it is not ours, and never was
		}
		for i := range now {
			m, _ := plain(now[i]).(map[string]any)
			var was []any
			for _, p := range old {
				if reflect.DeepEqual(plain(p["parentRef"]), m["parentRef"]) {
					was = list(p, "conditions")
				}
			}
			m["conditions"] = conditions(was, now[i].Conditions, clock, string(v1.RouteConditionPartiallyInvalid))
			parents = append(parents, m)
		}
		out["parents"] = parents
		return unlike(stored, out)
	}
}
