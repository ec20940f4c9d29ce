// SPDX-License-Identifier: Apache-2.0

//go:build lab && faults

package kubernetes

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fault is something that goes wrong, or a change that nobody may feel, while
// requests come through the ingress gateway and through two sidecars.
type fault struct {
	name     string
	commands []command
}

const (
	killControlPlane = `kubectl delete -n istio-system --grace-period=0 --force --wait=true `
	controlPlaneBack = `kubectl rollout status deployment/istiod -n istio-system --timeout=120s`
	restartWeb       = `kubectl rollout restart deployment/web -n faults && kubectl rollout status deployment/web -n faults --timeout=170s`
	fromInside       = `kubectl exec -n faults deploy/curl -c curl -- curl --silent --show-error --fail --head http://web:5000/hello`
	fromOutside      = `curl --silent --show-error --fail --head http://$INGRESS/hello`
	// The gateway's control plane, and what it has from it: each resource's version, and when it came.
	connectedTo = `lateen proxy-status | awk '/^istio-ingressgateway/ {print $(NF-1)}'`
	versions    = `kubectl exec -n istio-system deploy/istio-ingressgateway -- pilot-agent request GET config_dump | grep -E '"(version_info": "[0-9a-f]{16}"|last_updated)'`
)

// changes are commands that change the routes and see the change arrive, at the
// gateway and at a sidecar, and take it back.
func changes() []command {
	return []command{
		{run: `kubectl apply -n faults -f samples/faults/marked.yaml`, eventually: true},
		{run: fromOutside, eventually: true, check: contains("x-marked: yes")},
		{run: fromInside, eventually: true, check: contains("x-marked: yes")},
		{run: `kubectl delete virtualservice web-inside -n faults && kubectl apply -n faults -f samples/faults/web.yaml`},
		{run: fromOutside, eventually: true, check: lacks("x-marked")},
		{run: fromInside, eventually: true, check: lacks("x-marked")},
	}
}

var faults = []fault{
	{"the control plane is killed and restarted", append([]command{
		{run: killControlPlane + `pod -l app=istiod`},
		{run: controlPlaneBack},
		{run: restartWeb, check: contains("successfully rolled out")},
	}, changes()...)},
	{"one of two control planes goes", append([]command{
		{run: `kubectl scale deployment/istiod -n istio-system --replicas=2 && ` + controlPlaneBack},
		{run: connectedTo, check: matches(`^istiod-`), save: "BEFORE"},
		{run: versions, check: matches(`version_info`), save: "VERSIONS"},
		{run: killControlPlane + `pod $BEFORE`},
		{run: connectedTo + ` | grep -v "^$BEFORE$"`, eventually: true, check: matches(`^istiod-`)},
		// The versions are hashes of the contents. What the two agree on is not sent again.
		{run: versions, check: contains("$VERSIONS")},
	}, append(changes(),
		command{run: controlPlaneBack},
		command{run: `kubectl scale deployment/istiod -n istio-system --replicas=1`},
	)...)},
	{"three replicas are rolled over and scaled", []command{
		{run: restartWeb, check: contains("successfully rolled out")},
		{run: `kubectl scale deployment/web -n faults --replicas=1 && kubectl wait deployment/web -n faults --for=jsonpath='{.status.replicas}'=1 --timeout=60s`},
		{run: `kubectl get pods -n faults -l app=web`, eventually: true, check: running(1)},
		{run: `kubectl scale deployment/web -n faults --replicas=3 && kubectl rollout status deployment/web -n faults --timeout=120s`},
	}},
	{"the API server is away for 60 s", append([]command{
		{run: `lab stop kube-apiserver && sleep 60 && lab start kube-apiserver`},
		{run: `kubectl get --raw /readyz`, eventually: true, check: contains("ok")},
	}, changes()...)},
	{"the authority's secret is deleted", []command{
		{run: `kubectl get configmap istio-ca-root-cert -n faults -o jsonpath='{.data.root-cert\.pem}'`, save: "ROOT"},
		{run: `kubectl delete secret istio-ca-secret -n istio-system`},
		{run: `kubectl get secret istio-ca-secret -n istio-system -o jsonpath='{.data.ca-cert\.pem}' | base64 -d`, eventually: true, check: contains("$ROOT")},
		{run: restartWeb, check: contains("successfully rolled out")},
		{run: `kubectl get configmap istio-ca-root-cert -n faults -o jsonpath='{.data.root-cert\.pem}'`, check: contains("$ROOT")},
	}},
	{"the webhook is down", append([]command{
		{run: `kubectl scale deployment/istiod -n istio-system --replicas=0 && kubectl wait pod -n istio-system -l app=istiod --for=delete --timeout=60s`},
		{run: `kubectl create namespace unmeshed && kubectl create deployment plain -n unmeshed --image=registry.k8s.io/busybox -- sleep 3600 && kubectl rollout status deployment/plain -n unmeshed --timeout=60s`, check: contains("successfully rolled out")},
		{run: `kubectl delete namespace unmeshed --wait=false; kubectl scale deployment/istiod -n istio-system --replicas=1 && ` + controlPlaneBack},
		{run: connectedTo, eventually: true, check: matches(`^istiod-`)},
		{run: restartWeb, check: contains("successfully rolled out")},
	}, changes()...)},
}

// running wants that many pods, and none that is still ending.
func running(n int) func(output) error {
	return func(o output) error {
		if got := len(o.lines()) - 1; got != n {
			return fmt.Errorf("%d pods, want %d", got, n)
		}
		return nil
	}
}

// TestFaults counts the failed requests of a steady load during each fault:
// make test-faults.
func TestFaults(t *testing.T) {
	l := needLab(t)
	vars := l.faultsMesh(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			outside, inside := l.loadOutside(t, vars["INGRESS"]), l.loadInside(t)
			for _, c := range f.commands {
				t.Logf("$ %s", c.run)
				o := l.perform(t, c, vars)
				if c.save != "" {
					vars[c.save] = strings.TrimSpace(o.stdout)
				}
			}
			judgeLoad(t, outside, inside)
		})
	}
}

// faultsMesh installs the mesh and what the faults send requests to.
func (l *lab) faultsMesh(t *testing.T) (vars map[string]string) {
	t.Helper()
	t.Cleanup(func() { l.clean(t) })
	if out, err := l.command(t.Context(), "go", "build", "-o", filepath.Join(l.temp, "servers"), "./cmd/servers").CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/servers: %v\n%s", err, out)
	}
	l.must(t, `lateen install --set profile=default --skip-confirmation`)
	l.must(t, `kubectl create namespace faults && kubectl label namespace faults istio-injection=enabled && kubectl apply -n faults -f samples/faults/web.yaml`)
	t.Cleanup(func() { l.remove(t, "faults") })
	l.must(t, `for d in web client curl; do kubectl rollout status deployment/$d -n faults --timeout=50s || exit; done`)
	vars = l.vars()
	vars["INGRESS"] = l.eventually(t, `kubectl get service -n istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[].ip}'`, matches(`^\d+\.\d+\.\d+\.\d+$`)).stdout
	l.perform(t, command{run: fromOutside, eventually: true}, vars)
	return vars
}

// judgeLoad ends the loads and wants no failed request.
func judgeLoad(t *testing.T, outside, inside func() tally) {
	t.Helper()
	for name, end := range map[string]func() tally{"gateway": outside, "sidecars": inside} {
		c := end()
		t.Logf("through the %s: %d requests, %d failed", name, c.sent, c.failed)
		if c.failed != 0 || c.sent == 0 {
			t.Errorf("through the %s: %d of %d requests failed\n%s", name, c.failed, c.sent, c.reasons)
		}
	}
}

// remove deletes a namespace.
func (l *lab) remove(t *testing.T, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle) // the test's own has ended
	defer cancel()
	if o := l.shell(ctx, `kubectl delete namespace `+namespace+` --wait=true --timeout=170s`, nil); o.code != 0 {
		t.Errorf("namespace %s: exit code %d\n%s%s", namespace, o.code, o.stdout, o.stderr)
	}
}

// tally is what a load generator reported.
type tally struct {
	sent, answered, failed int
	reasons                string
}

var reportLine = regexp.MustCompile(`(?m)^sent (\d+) answered (\d+) failed (\d+)$`)

func tallyOf(log string) (tally, error) {
	all := reportLine.FindAllStringSubmatch(log, -1)
	if all == nil {
		return tally{}, fmt.Errorf("no report in %q", log)
	}
	var c tally
	for i, into := range []*int{&c.sent, &c.answered, &c.failed} {
		*into, _ = strconv.Atoi(all[len(all)-1][i+1]) // digits
	}
	for line := range strings.Lines(log) {
		if !reportLine.MatchString(line) {
			c.reasons += line
		}
	}
	return c, nil
}

// loadOutside sends 100 requests per second through the gateway until the
// function it returns is called.
func (l *lab) loadOutside(t *testing.T, ingress string) func() tally {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	c := l.command(ctx, l.bin, "run", filepath.Join(l.temp, "servers"), "load", "--rate=100", "--until-stdin-closes", "http://"+ingress+"/hello")
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	first, err := r.ReadString('\n') // requests are under way
	if err != nil {
		t.Fatalf("load: %v: %s", err, log.String())
	}
	read := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		read <- string(b)
	}()
	return func() tally {
		in.Close()
		text := first + <-read
		if err := c.Wait(); err != nil {
			t.Errorf("load: %v: %s", err, log.String())
		}
		total, err := tallyOf(text)
		if err != nil {
			t.Fatal(err)
		}
		return total
	}
}

// loadInside counts what the client's pod sends all the time, from now until
// the function it returns is called.
func (l *lab) loadInside(t *testing.T) func() tally {
	t.Helper()
	const logs = `kubectl logs -n faults deployment/client -c client`
	before, err := tallyOf(l.must(t, logs).stdout)
	if err != nil {
		t.Fatal(err)
	}
	return func() tally {
		now, err := tallyOf(l.must(t, logs).stdout)
		if err != nil {
			t.Fatal(err)
		}
		answered := func(o output) error {
			c, err := tallyOf(o.stdout)
			if err == nil && c.answered < now.sent {
				err = fmt.Errorf("%d of %d requests were answered", c.answered, now.sent)
			}
			return err
		}
		after, err := tallyOf(l.eventually(t, logs, answered).stdout)
		if err != nil {
			t.Fatal(err)
		}
		return tally{sent: now.sent - before.sent, failed: after.failed - before.failed, reasons: after.reasons}
	}
}
