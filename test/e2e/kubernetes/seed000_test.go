// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"errors"
	"fmt"
	"strings"
)

const (
	ours       = "lateen in istioctl's place"
	local      = "a file of this tree for an address"
	telemetry  = "telemetry: the add-ons read Istio's metrics"
	console    = "the console"
	ownName    = "the pod's own name"
	inWords    = "the document says it in words"
	noTerminal = "the file is written without an editor"
)

// todoApplication is "Kubernetes Service Meshes – Istio": installing, a todo
// list of two services, its gateway with TLS, and a canary.
var todoApplication = scenario{document: "000", steps: []step{
	{"1. Installation", []command{
		{
			document: `curl --silent --location https://github.com/istio/istio/releases/download/1.17.0/istioctl-1.17.0-linux-amd64.tar.gz | tar --directory=$HOME/bin -xzvpf -`,
			run:      `lateen version --client`, replaced: "lateen is built from this tree", check: matches(`\S+`),
		},
		{
			document: `istioctl install --set profile=default --set meshConfig.accessLogFile=/dev/stdout --skip-confirmation`,
			run:      `lateen install --set profile=default --set meshConfig.accessLogFile=/dev/stdout --skip-confirmation`,
			replaced: ours, check: contains("Installation complete"),
		},
		{document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/1.17.0/samples/addons/prometheus.yaml`, pending: telemetry},
		{document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/1.17.0/samples/addons/jaeger.yaml`, pending: telemetry},
		{document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/1.17.0/samples/addons/kiali.yaml`, pending: console},
	}},
	{"2. Integrate workloads", []command{
		{
			document: `kubectl label namespace default istio-injection=enabled`,
			run:      `kubectl label namespace default istio-injection=enabled`, check: contains("namespace/default labeled"),
		},
		{run: `kubectl apply -f samples/todo/kube/todo.yaml`, replaced: "the document's two manifests, as files", check: contains("deployment.apps/todobackend created", "service/todoui created")},
		{
			document: `kubectl get deployments -o yaml | istioctl kube-inject -f - | kubectl apply -f -`,
			run:      `kubectl get deployments -o yaml | lateen kube-inject -f - | kubectl apply -f -`,
			replaced: ours, check: contains("deployment.apps/todobackend configured", "deployment.apps/todoui configured"),
		},
	}},
	{"3. Examine the meshed workloads", []command{
		{document: `kubectl get po`, run: `kubectl get po`, eventually: true, check: pods("2/2", "todobackend", "todoui")},
		{run: `kubectl rollout status deployment/todoui`, replaced: "a reader waits until the pods of before are gone", check: contains("successfully rolled out")},
		{run: `kubectl rollout status deployment/todobackend`, replaced: "a reader waits until the pods of before are gone", check: contains("successfully rolled out")},
		{
			run:      `kubectl get pod -l app=todoui --field-selector=status.phase=Running -o jsonpath='{.items[0].metadata.name}'`,
			replaced: "the document's pod names are its own", save: "TODOUI", check: contains("todoui-"),
		},
		{
			document: `kubectl describe pod todoui-65fbdcb8c5-5rnkn`, run: `kubectl describe pod $TODOUI`, replaced: ownName,
			check: all(contains("Init Containers:", "istio-init:", "istio-proxy:", "todoui:"), lacks("CrashLoopBackOff")),
		},
		{
			document: `kubectl logs todoui-65fbdcb8c5-5rnkn istio-init`, run: `kubectl logs $TODOUI istio-init`, replaced: ownName,
			check: contains("-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001", "COMMIT"),
		},
		{
			document: `kubectl logs todoui-65fbdcb8c5-5rnkn istio-proxy`, run: `kubectl logs $TODOUI istio-proxy`, replaced: ownName,
			check: all(contains("Proxy role", "type=sidecar", "id=$TODOUI.default", "domain=default.svc.cluster.local", "Readiness succeeded"), matches(`(?i)workload certificate`)),
		},
	}},
	{"4. Overhead", []command{
		{
			document: `kubectl top pod todoui-65fbdcb8c5-5rnkn --containers`, run: `kubectl top pod $TODOUI --containers`, replaced: ownName,
			eventually: true, check: all(matches(`istio-proxy +\d+m +\d+Mi`), matches(`todoui +\d+m +\d+Mi`)),
		},
		{
			document: `kubectl top pod --namespace istio-system`, run: `kubectl top pod --namespace istio-system`,
			eventually: true, check: all(matches(`istio-ingressgateway-\S+ +\d+m +\d+Mi`), matches(`istiod-\S+ +\d+m +\d+Mi`)),
		},
	}},
	{"5. Some load through the LoadBalancer", []command{
		{
			document: `LOADBALANCER_IP="$(kubectl get svc todoui -o jsonpath="{.status.loadBalancer.ingress[0].ip}")"`,
			run:      `kubectl get svc todoui -o jsonpath="{.status.loadBalancer.ingress[0].ip}"`,
			replaced: "the variable is kept by the test", save: "LOADBALANCER_IP", eventually: true, check: matches(`^\d+\.\d+\.\d+\.\d+$`),
		},
		{
			document: `curl --silent "http://$LOADBALANCER_IP:8090" | head -n 4`,
			run:      `for i in $(seq 10); do curl --silent "http://$LOADBALANCER_IP:8090" | head -n 4; done`,
			replaced: "ten times instead of for ever", check: all(contains("<html"), count("v0.1", 10)),
		},
		{document: `kubectl --namespace istio-system port-forward svc/kiali 20001`, pending: console},
		{document: "", run: `kubectl exec deploy/todoui -c istio-proxy -- pilot-agent request GET clusters | grep -c 'outbound|8080||todobackend.default.svc.cluster.local'`, replaced: "what the document sees in Kiali: todoui calls todobackend through its sidecar", check: matches(`^[1-9]`)},
	}},
	{"6. Istio Ingress, Gateway and VirtualService", []command{
		{
			document: `INGRESS_IP_ISTIO=$(kubectl get service --namespace istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[].ip}')`,
			run:      `kubectl get service --namespace istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[].ip}'`,
			replaced: "the variable is kept by the test", save: "INGRESS_IP_ISTIO", eventually: true, check: matches(`^\d+\.\d+\.\d+\.\d+$`),
		},
		{
			document: `openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout todoapp.key -out todoapp.crt -subj "/CN=todoapp.$INGRESS_IP_ISTIO.nip.io"`,
			run:      `cd $TEMP && openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout todoapp.key -out todoapp.crt -subj "/CN=todoapp.$INGRESS_IP_ISTIO.nip.io"`,
			replaced: "in a temporary directory",
		},
		{
			document: `kubectl create secret generic --namespace istio-system todoapp-tls --from-file=key=todoapp.key --from-file=cert=todoapp.crt`,
			run:      `cd $TEMP && kubectl create secret generic --namespace istio-system todoapp-tls --from-file=key=todoapp.key --from-file=cert=todoapp.crt`,
			replaced: "in a temporary directory", check: contains("secret/todoapp-tls created"),
		},
		{
			document: "kubectl apply -f - <<.EOF", run: `sed "s/INGRESS_IP_ISTIO/$INGRESS_IP_ISTIO/" samples/todo/kube/gateway.yaml | kubectl apply -f -`,
			replaced: "the manifest is a file", check: contains("gateway.networking.istio.io/todoui created", "virtualservice.networking.istio.io/todoui created"),
		},
		{
			document: `INGRESS_IP_ISTIO=$(kubectl get service --namespace istio-system istio-ingressgateway -o jsonpath='{.status.loadBalancer.ingress[].ip}')`,
			run:      `echo $INGRESS_IP_ISTIO`, replaced: "it has been read above", check: matches(`^\d+\.\d+\.\d+\.\d+$`),
		},
		{
			document: `$CURL https://todoapp.$INGRESS_IP_ISTIO.nip.io/ | head -n 4`,
			run:      `for i in $(seq 10); do curl --silent --location --insecure https://todoapp.$INGRESS_IP_ISTIO.nip.io/ | head -n 4; done`,
			replaced: "ten times instead of for ever", eventually: true, check: count("v0.1", 10),
		},
		{
			run:      `curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}\n' http://todoapp.$INGRESS_IP_ISTIO.nip.io/`,
			replaced: "httpsRedirect, which --location hides", check: matches(`^301 https://todoapp\.\S+\.nip\.io/`),
		},
		{
			run:      `openssl s_client -connect $INGRESS_IP_ISTIO:443 -servername todoapp.$INGRESS_IP_ISTIO.nip.io </dev/null 2>/dev/null | openssl x509 -noout -subject`,
			replaced: "the certificate that the document made", check: matches(`CN ?= ?todoapp\.\S+\.nip\.io`),
		},
		{
			run:      `curl --silent --show-error --insecure --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0 https://todoapp.$INGRESS_IP_ISTIO.nip.io/`,
			replaced: "minProtocolVersion TLSV1_2", exit: 35,
		},
	}},
	{"7. Prepare for versioned deployment", []command{
		{
			document: "kubectl apply -f - <<.EOF", run: `sed "s/INGRESS_IP_ISTIO/$INGRESS_IP_ISTIO/; s/WEIGHT_1/100/; s/WEIGHT_2/0/" samples/todo/kube/subsets.yaml <(echo ---) samples/todo/kube/canary.yaml | kubectl apply -f -`,
			replaced: "the manifests are files", check: contains("destinationrule.networking.istio.io/todoui created", "virtualservice.networking.istio.io/todoui configured"),
		},
		{run: `kubectl apply -f samples/todo/kube/todoui-0-2.yaml && kubectl rollout status deployment/todoui-0-2`, replaced: "the document's manifest, as a file", check: contains("deployment.apps/todoui-0-2 created", "successfully rolled out")},
		{
			run:      `for i in $(seq 20); do curl --silent --location --insecure https://todoapp.$INGRESS_IP_ISTIO.nip.io/ | head -n 4; done`,
			replaced: "all traffic still reaches the current version", check: all(count("v0.1", 20), lacks("v0.2")),
		},
	}},
	{"8. Make the versioned deployment available", []command{
		{
			document: "kubectl apply -f - <<.EOF", run: `sed "s/INGRESS_IP_ISTIO/$INGRESS_IP_ISTIO/; s/WEIGHT_1/90/; s/WEIGHT_2/10/" samples/todo/kube/canary.yaml | kubectl apply -f -`,
			replaced: "the manifest is a file", check: contains("virtualservice.networking.istio.io/todoui configured"),
		},
		{
			run:      `curl --silent --insecure "https://todoapp.$INGRESS_IP_ISTIO.nip.io/?n=[1-20]" | grep -c v0.2`,
			replaced: "a reader waits for the first answer of v0.2", eventually: true, check: matches(`^[1-9]`),
		},
		{
			run:      `for i in $(seq 400); do curl --silent --insecure https://todoapp.$INGRESS_IP_ISTIO.nip.io/ | head -n 4 | grep -o 'v0\.[12]' | head -n 1; done`,
			replaced: "a count instead of a picture", check: share("v0.2", 400, 10),
		},
	}},
}}

// count wants a text in so many lines.
func count(text string, n int) func(output) error {
	return func(o output) error {
		got := 0
		for _, l := range o.lines() {
			if strings.Contains(l, text) {
				got++
			}
		}
		if got != n {
			return fmt.Errorf("%q in %d lines, want %d", text, got, n)
		}
		return nil
	}
}

// empty wants nothing printed.
func empty(o output) error {
	if strings.TrimSpace(o.stdout) != "" {
		return errors.New("want nothing here")
	}
	return nil
}
