// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/base64"
	"log/slog"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/lateen-mesh/lateen/internal/ca"
	"github.com/lateen-mesh/lateen/internal/config/kube/apitest"
)

const secrets = "/api/v1/namespaces/istio-system/secrets"

func secretOf(t *testing.T, name string, data map[string][]byte) apitest.Object {
	t.Helper()
	d := apitest.Object{}
	for k, v := range data {
		d[k] = base64.StdEncoding.EncodeToString(v)
	}
	return apitest.Object{"kind": "Secret", "apiVersion": "v1", "metadata": apitest.Object{"name": name}, "data": d}
}

func client(t *testing.T, api *apitest.Server) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(api.Config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openAuthority(t *testing.T, api *apitest.Server) *Authority {
	t.Helper()
	a, err := OpenAuthority(t.Context(), client(t, api), "istio-system", ca.Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestReplicasShareOneAuthority starts replicas together on an empty cluster.
func TestReplicasShareOneAuthority(t *testing.T) {
	api := apitest.New(t)
	roots := make([]string, 5)
	var group sync.WaitGroup
	for i := range roots {
		c := client(t, api)
		group.Go(func() {
			a, err := OpenAuthority(t.Context(), c, "istio-system", ca.Options{}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(a.RootPEM())
		})
	}
	group.Wait()
	for _, r := range roots {
		if r == "" || r != roots[0] {
			t.Error("replicas have different roots")
		}
	}
}

// TestDeletedSecretIsWrittenBack deletes the key's Secret under a leader.
func TestDeletedSecretIsWrittenBack(t *testing.T) {
	api := apitest.New(t)
	a := openAuthority(t, api)
	before := api.Get(secrets + "/istio-ca-secret")["data"]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Guard(ctx) }()
	api.Remove(secrets + "/istio-ca-secret")
	eventually(t, func() bool { return api.Get(secrets+"/istio-ca-secret") != nil })
	cancel()
	<-done
	after := api.Get(secrets + "/istio-ca-secret")["data"].(apitest.Object)
	for k, v := range before.(apitest.Object) {
		if after[k] != v {
			t.Errorf("%s is another one", k)
		}
	}
}

// TestPluggedInAuthorityIsRotated replaces the user's own authority, first by
// something broken.
func TestPluggedInAuthorityIsRotated(t *testing.T) {
	api := apitest.New(t)
	first, err := ca.NewData(ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := ca.NewData(ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	api.Put(secrets, secretOf(t, "cacerts", first))
	a := openAuthority(t, api)
	if a.Secret != PluggedSecret {
		t.Fatalf("the authority is that of %s", a.Secret)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { a.Follow(ctx) })
	told := make(chan string)
	group.Go(func() {
		a.WithRoots(ctx, func(ctx context.Context, pem []byte) {
			select {
			case told <- string(pem):
				<-ctx.Done()
			case <-ctx.Done():
			}
		})
	})
	if got := <-told; got != string(first["root-cert.pem"]) {
		t.Error("the first roots are not told")
	}
	broken := map[string][]byte{"ca-cert.pem": second["ca-cert.pem"], "ca-key.pem": first["ca-key.pem"]}
	api.Put(secrets, secretOf(t, "cacerts", broken))
	api.Put(secrets, secretOf(t, "cacerts", second))
	if got := <-told; got != string(second["root-cert.pem"]) {
		t.Error("the roots that are told after a rotation are not the new ones")
	}
	if string(a.RootPEM()) != string(second["root-cert.pem"]) {
		t.Error("the authority has not changed")
	}
	cancel()
	group.Wait()
}

// eventually waits for a state that another goroutine brings about.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not come about")
		}
	}
}
