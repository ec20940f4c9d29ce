// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

var virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}

// plane is the control plane's interface for the command line, by port-forward.
type plane struct {
	cmd  *exec.Cmd
	base string
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

func (b *bench) forward(ctx context.Context) (*plane, error) {
	p := &plane{cmd: exec.CommandContext(ctx, "kubectl", "--kubeconfig", b.kubeconfig, "port-forward", "-n", system, "deployment/istiod", ":9876")}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			p.base = "http://" + m[1]
			go io.Copy(io.Discard, out) // it says more with every connection
			return p, nil
		}
	}
	p.stop()
	return nil, fmt.Errorf("kubectl port-forward: no port; %s", p.cmd.ProcessState)
}

func (p *plane) stop() {
	_ = p.cmd.Process.Kill() // it may have ended already
	_ = p.cmd.Wait()         // killed: the error says so
}

// wait returns when every proxy has acknowledged this change, or all that the
// control plane knows of.
func (p *plane) wait(ctx context.Context, o *api.StoredObject) error {
	body, err := json.Marshal(api.WaitRequest{Timeout: time.Minute, Object: o})
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+api.PathWait, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var answer api.WaitResponse
	if err := json.Unmarshal(text, &answer); err != nil || r.StatusCode != http.StatusOK || len(answer.Waiting) > 0 {
		return fmt.Errorf("not every proxy has acknowledged: %s, %s", r.Status, text)
	}
	return nil
}

// changes alters a VirtualService again and again, and prints how long it takes
// from the request to the API server until the control plane answers that every
// proxy has acknowledged it. The answer comes through the API server too.
func (b *bench) changes(ctx context.Context) error {
	client, err := dynamic.NewForConfig(b.config)
	if err != nil {
		return err
	}
	plane, err := b.forward(ctx)
	if err != nil {
		return err
	}
	defer plane.stop()
	if err := plane.wait(ctx, nil); err != nil { // whatever came before
		return err
	}
	sidecars, err := b.sidecars(ctx)
	if err != nil {
		return err
	}
	var stored, whole []float64
	for n := range b.rounds {
		patch := fmt.Sprintf(`{"spec":{"http":[{"timeout":"%ds","route":[{"destination":{"host":"reviews","subset":"v1"}}]}]}}`, n+1)
		at := time.Now()
		o, err := client.Resource(virtualServices).Namespace(bookinfo).Patch(ctx, "reviews", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			return err
		}
		stored = append(stored, float64(time.Since(at).Microseconds())/1000)
		err = plane.wait(ctx, &api.StoredObject{Kind: "VirtualService", Namespace: bookinfo, Name: "reviews", ResourceVersion: o.GetResourceVersion()})
		if err != nil {
			return err
		}
		whole = append(whole, float64(time.Since(at).Microseconds())/1000)
	}
	report("VirtualService, request to stored, ms", "", stored)
	report(fmt.Sprintf("VirtualService, request to acknowledged by %d sidecars, ms", sidecars), "p99 <= 150", whole)
	return nil
}

func (b *bench) sidecars(ctx context.Context) (int, error) {
	n := 0
	for _, ns := range []string{bookinfo, idle} {
		pods, err := b.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return 0, err
		}
		for i := range pods.Items {
			if sidecarRuns(&pods.Items[i]) {
				n++
			}
		}
	}
	return n, nil
}
