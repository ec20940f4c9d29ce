// SPDX-License-Identifier: Apache-2.0

//go:build lab && faults

package kubernetes

import (
	"context"
	"strings"
	"testing"
)

// nodeGone are the commands of TestNodeGone: the second node neither sends nor
// gets anything any more, as after a power cut.
var nodeGone = []command{
	{run: `kubectl uncordon node2 && kubectl scale deployment/web -n faults --replicas=6 && kubectl rollout status deployment/web -n faults --timeout=120s`},
	{run: `kubectl get pods -n faults -l app=web -o wide`, check: contains("node2")},
	{run: `kubectl apply -n faults -f samples/faults/patient.yaml`},
	{run: `lateen proxy-status`, eventually: true, check: lacks("STALE")},
	{run: `dev=$(ip route get 172.30.0.2 | grep -oE 'dev \S+' | cut -d' ' -f2)
nft "table inet gone { chain in { type filter hook prerouting priority -300; iifname $dev drop; }; chain out { type filter hook postrouting priority 300; oifname $dev drop; }; }"`},
	{run: `kubectl wait node/node2 --for=condition=Ready=Unknown --timeout=120s`},
	{run: `kubectl get endpointslices -n faults -l kubernetes.io/service-name=web -o jsonpath='{range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName}{"\n"}{end}'`, eventually: true, check: all(contains("node1"), lacks("node2"))},
	{run: fromOutside, check: contains("200 OK")},
	{run: `nft delete table inet gone`},
	{run: `kubectl wait node/node2 --for=condition=Ready --timeout=120s`},
}

// TestNodeGone loses one of two nodes under load: make test-node-gone.
func TestNodeGone(t *testing.T) {
	l := needLab(t)
	if nodes := l.must(t, `kubectl get nodes -o name`); len(nodes.lines()) != 2 {
		t.Skip("the lab has not two nodes")
	}
	l.must(t, `kubectl cordon node2`) // the gateway and the client are to stay
	vars := l.faultsMesh(t)
	t.Cleanup(func() { l.shell(context.Background(), `nft delete table inet gone; kubectl uncordon node2`, nil) })
	outside, inside := l.loadOutside(t, vars["INGRESS"]), l.loadInside(t)
	for _, c := range nodeGone {
		t.Logf("$ %s", c.run)
		l.perform(t, c, vars)
	}
	judgeLoad(t, outside, inside)
	if strings.Contains(l.must(t, `kubectl get pods -n istio-system -o wide`).stdout, "node2") {
		t.Error("part of the mesh was on the node that went")
	}
}
