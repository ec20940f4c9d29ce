// SPDX-License-Identifier: Apache-2.0

//go:build lab

package kubernetes

import (
	"os"
	"testing"
)

// sample is a directory of Istio's samples, applied as it is.
type sample struct {
	name     string
	commands []command
}

// samples run one after the other on one mesh, each in a namespace of its own.
var samples = []sample{
	{"bookinfo", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/bookinfo/platform/kube/bookinfo-psa.yaml -f $SAMPLES/bookinfo/platform/kube/bookinfo-versions.yaml -f $SAMPLES/bookinfo/platform/kube/bookinfo-ingress.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "details-v1", "productpage-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3")},
		{run: `kubectl get ingress gateway -n $NS -o jsonpath='{.status.loadBalancer.ingress[0].ip}'`, eventually: true, check: contains("$INGRESS")},
		{run: `curl --silent --show-error http://$INGRESS/productpage`, eventually: true, check: contains("The Comedy of Errors", "Reviews served by:")},
		{run: `for p in productpage/more api/v1/products/0 static/style.css; do curl --silent --output /dev/null --write-out '%{http_code} ' http://$INGRESS/$p; done`, check: matches(`^404 200 200 $`)},
		{run: `kubectl apply -n $NS -f $SAMPLES/bookinfo/gateway-api/route-all-v1.yaml`, check: contains("httproute.gateway.networking.k8s.io/reviews created")},
		{run: `for i in $(seq 20); do curl --silent http://$INGRESS/productpage | grep -o 'reviews-v[123]' | head -n 1; done`, eventually: true, check: count("reviews-v1", 20)},
		{run: `kubectl apply -n $NS -f $SAMPLES/bookinfo/gateway-api/route-reviews-50-v3.yaml`, check: contains("configured")},
		{run: `curl --silent "http://$INGRESS/productpage?u=[1-20]" | grep -c reviews-v3`, eventually: true, check: matches(`^[1-9]`)},
		{run: `for i in $(seq 200); do curl --silent http://$INGRESS/productpage | grep -o 'reviews-v[123]' | head -n 1; done`, check: share("reviews-v3", 200, 50)},
		{run: `kubectl get httproute reviews -n $NS -o jsonpath='{.status.parents[0].conditions[?(@.type=="Accepted")].status}'`, eventually: true, check: contains("True")},
		{run: `kubectl delete -n $NS ingress gateway`},
	}},
	{"httpbin", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/httpbin/httpbin.yaml -f $SAMPLES/httpbin/httpbin-gateway.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "httpbin")},
		{run: `curl --silent --show-error http://$INGRESS/status/418 --output /dev/null --write-out '%{http_code}'`, eventually: true, check: contains("418")},
		{run: `curl --silent --show-error http://$INGRESS/headers`, check: contains("X-Request-Id", "X-Forwarded-For", "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account")},
	}},
	{"curl", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/curl/curl.yaml -f $SAMPLES/httpbin/httpbin.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "curl", "httpbin")},
		{run: `kubectl exec -n $NS deploy/curl -c curl -- curl --silent --show-error http://httpbin:8000/headers`, eventually: true, check: contains("spiffe://cluster.local/ns/$NS/sa/curl")},
		{run: `kubectl exec -n $NS deploy/curl -c curl -- curl --silent --output /dev/null --write-out '%{http_code}' http://httpbin.$NS.svc.cluster.local:8000/delay/1`, check: contains("200")},
	}},
	{"helloworld", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/helloworld/helloworld.yaml -f $SAMPLES/helloworld/helloworld-gateway.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "helloworld-v1", "helloworld-v2")},
		{run: `for i in $(seq 20); do curl --silent http://$INGRESS/hello; done`, eventually: true, check: contains("Hello version: v1, instance: helloworld-v1-", "Hello version: v2, instance: helloworld-v2-")},
		{run: `kubectl delete -n $NS -f $SAMPLES/helloworld/helloworld-gateway.yaml`},
		{run: `kubectl apply -n $NS -f $SAMPLES/helloworld/helloworld.yaml -f $SAMPLES/helloworld/gateway-api/helloworld-gateway.yaml`},
		{run: `kubectl get gateways.gateway.networking.k8s.io -n $NS -o jsonpath='{.items[0].status.conditions[?(@.type=="Programmed")].status}'`, eventually: true, check: contains("True")},
		{run: `curl --silent --show-error http://$(kubectl get gateways.gateway.networking.k8s.io -n $NS -o jsonpath='{.items[0].status.addresses[0].value}')/hello`, eventually: true, check: contains("Hello version: v")},
	}},
	{"tcp-echo", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/tcp-echo/tcp-echo-services.yaml -f $SAMPLES/curl/curl.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "tcp-echo-v1", "tcp-echo-v2", "curl")},
		{run: `for i in $(seq 20); do kubectl exec -n $NS deploy/curl -c curl -- sh -c "echo world | nc -w 2 tcp-echo 9000"; done`, eventually: true, check: contains("one world", "two world")},
	}},
	{"health-check", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/health-check/liveness-command.yaml -f $SAMPLES/health-check/liveness-http-same-port.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "liveness", "liveness-http")},
		{run: `kubectl get pod -n $NS -l app=liveness-http -o jsonpath='{.items[0].spec.containers[?(@.name=="liveness-http")].livenessProbe.httpGet}'`, check: contains(`"path":"/app-health/liveness-http/livez"`, `"port":15020`)},
		{run: `kubectl get events -n $NS --field-selector=reason=Unhealthy -o jsonpath='{.items[*].message}'`, check: lacks("Liveness")},
	}},
	{"websockets", []command{
		{run: `kubectl apply -n $NS -f $SAMPLES/websockets/app.yaml -f $SAMPLES/websockets/route.yaml`},
		{run: `kubectl get pods -n $NS`, eventually: true, check: pods("2/2", "tornado")},
		{run: `curl --silent --show-error http://$INGRESS/`, eventually: true, check: contains("<html")},
		{
			run:  `curl --silent --include --max-time 2 --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://$INGRESS/ws`,
			exit: 28, check: contains("101 Switching Protocols", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
		},
	}},
}

// TestSamples applies Istio's samples unmodified and uses them.
func TestSamples(t *testing.T) {
	l := needLab(t)
	if os.Getenv("LATEEN_ISTIO_SAMPLES") == "" {
		t.Skip("set LATEEN_ISTIO_SAMPLES to Istio's samples")
	}
	t.Cleanup(func() { l.clean(t) })
	l.must(t, `kubectl apply --server-side -f $GATEWAY_API/config/crd/standard && lateen install --set profile=default --skip-confirmation`)
	vars := l.vars()
	vars["INGRESS"] = l.eventually(t, `kubectl get service -n istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[].ip}'`, matches(`^\d+\.\d+\.\d+\.\d+$`)).stdout
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			vars["NS"] = "sample-" + s.name
			l.must(t, `kubectl create namespace `+vars["NS"]+` && kubectl label namespace `+vars["NS"]+` istio-injection=enabled`)
			t.Cleanup(func() { l.must(t, `kubectl delete namespace `+vars["NS"]+` --wait=true --timeout=170s`) })
			for _, c := range s.commands {
				t.Logf("$ %s", c.run)
				l.perform(t, c, vars)
			}
		})
	}
}
