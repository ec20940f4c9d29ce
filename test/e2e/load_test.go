// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	loadRate    = 200 // requests per second
	changeCount = 100
	changeEvery = 300 * time.Millisecond
)

// load asks for pages at a fixed rate and counts what failed.
type load struct {
	mu     sync.Mutex
	total  int
	failed map[string]int
}

func (l *load) count(failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if failure != "" {
		l.failed[failure]++
	}
}

// run is an open loop: a slow answer does not hold back the next request.
func (l *load) run(target string, stop <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / loadRate)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			wg.Go(func() { l.count(ask(target)) })
		}
	}
}

func ask(target string) string {
	body, resp, err := fetch(client, target, nil)
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode != http.StatusOK:
		return fmt.Sprintf("%s: %.200s", resp.Status, body)
	}
	for _, sorry := range []string{reviewsUnavailable, detailsUnavailable, ratingsUnavailable} {
		if strings.Contains(body, sorry) {
			return sorry
		}
	}
	return ""
}

// changesUnderLoad: no request fails while the configuration changes a hundred
// times, in all the ways that hurt elsewhere.
func (m *mesh) changesUnderLoad(t *testing.T) {
	m.applyText(t, reviewsRule("v1", "v2", "v3"))
	m.applyText(t, reviewsRoute(50, 50))
	if _, err := m.lateen("", "delete", "virtualservice", "ratings", "details", "productpage", "--ignore-not-found"); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	l := &load{failed: map[string]int{}}
	var wg sync.WaitGroup
	wg.Go(func() { l.run(m.gateway+"/productpage", stop) })
	changes := []func(i int) error{
		func(i int) error { return m.put(reviewsRoute(10+i%80, 90-i%80)) },
		func(int) error { return m.put(reviewsRule("v1", "v3")) }, // v2 is in use
		func(int) error { return m.put(reviewsRule("v1", "v2", "v3")) },
		func(int) error { return m.remove("virtualservice", "reviews") },
		func(i int) error { return m.put(reviewsRoute(90-i%80, 10+i%80)) },
		func(int) error { return m.put(strict) },
		func(int) error { return m.put(strings.ReplaceAll(strict, "STRICT", "PERMISSIVE")) },
		func(int) error { return m.put(extraWorkload) },
		func(i int) error { return m.put(reviewsRoute(10+i%80, 90-i%80)) },
		func(int) error {
			_, err := m.lateen(extraWorkload, "delete", "-f", "-")
			return err
		},
	}
	tick := time.NewTicker(changeEvery)
	defer tick.Stop()
	for i := range changeCount {
		<-tick.C
		if err := changes[i%len(changes)](i); err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	time.Sleep(time.Second) // the last change under load as well
	close(stop)
	wg.Wait()
	t.Logf("%d requests, %d changes, failures: %v", l.total, changeCount, l.failed)
	if len(l.failed) > 0 {
		t.Errorf("failures: %v", l.failed)
	}
	if l.total < changeCount*loadRate*3/10/2 {
		t.Errorf("only %d requests were made", l.total)
	}
}

func (m *mesh) put(manifest string) error {
	_, err := m.lateen(manifest, "apply", "-f", "-")
	return err
}

func (m *mesh) remove(kind, name string) error {
	_, err := m.lateen("", "delete", kind, name)
	return err
}

func reviewsRoute(v1, v2 int) string {
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: %d}
    - {destination: {host: reviews, subset: v2}, weight: %d}
`, v1, v2)
}

func reviewsRule(subsets ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec:\n  host: reviews\n  subsets:\n")
	for _, s := range subsets {
		fmt.Fprintf(&b, "  - {name: %s, labels: {version: %s}}\n", s, s)
	}
	return b.String()
}

// extraWorkload is a second ratings, with its own process and sidecar.
const extraWorkload = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: ratings-v2
  labels: {app: ratings, version: v2}
spec:
  address: 127.0.1.40
  labels: {app: ratings, version: v2, security.istio.io/tlsMode: istio}
  serviceAccount: bookinfo-ratings
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: ratings-v2}
spec:
  workloadSelector: {labels: {app: ratings, version: v2}}
  ingress:
  - port: {number: 9080, name: http, protocol: HTTP}
    bind: 127.0.1.40
    defaultEndpoint: 127.0.0.1:19140
---
apiVersion: mesh.lateen.dev/v1alpha1
kind: LocalWorkload
metadata: {name: ratings-v2}
spec:
  entry: ratings-v2
  command: [bookinfo, ratings]
  env: {SERVICE_VERSION: v2, HOSTNAME: ratings-v2-local}
  ready: /health
`
