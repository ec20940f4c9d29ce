// SPDX-License-Identifier: Apache-2.0

package kubernetes

// bookinfoWithGatewayAPI is "Understanding Istio and Service Mesh": Bookinfo
// behind a Kubernetes Gateway, mutual TLS made strict, and a canary.
var bookinfoWithGatewayAPI = scenario{document: "004", steps: []step{
	{"1. Install and enable injection", []command{
		{run: `lateen install --set profile=default --skip-confirmation`, replaced: inWords, check: contains("Installation complete")},
		{
			document: `kubectl label namespace default istio-injection=enabled`,
			run:      `kubectl label namespace default istio-injection=enabled`, check: contains("namespace/default labeled"),
		},
	}},
	{"2. Deploy Bookinfo", []command{
		{
			document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/release-1.23/samples/bookinfo/platform/kube/bookinfo.yaml`,
			run:      `kubectl apply -f $SAMPLES/bookinfo/platform/kube/bookinfo.yaml`, replaced: local,
			check: contains("service/details created", "serviceaccount/bookinfo-details created", "deployment.apps/details-v1 created", "deployment.apps/reviews-v3 created", "deployment.apps/productpage-v1 created"),
		},
		{
			document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/release-1.23/samples/bookinfo/platform/kube/bookinfo.yaml`,
			run:      `kubectl apply -f $SAMPLES/bookinfo/platform/kube/bookinfo.yaml`, replaced: local + ", shown a second time with what it printed",
			check: contains("deployment.apps/productpage-v1 unchanged"),
		},
		{
			document: `kubectl get pods`, run: `kubectl get pods`, eventually: true,
			check: pods("2/2", "details-v1", "productpage-v1", "ratings-v1", "reviews-v1", "reviews-v2", "reviews-v3"),
		},
		{
			run:      `kubectl describe pod -l app=reviews,version=v3`,
			replaced: inWords, check: contains("reviews:", "istio-proxy:", "examples-bookinfo-reviews-v3", "15090/TCP", "LOG_DIR:", "/tmp/logs", "/opt/ibm/wlp/output from wlp-output (rw)"),
		},
	}},
	{"3. A Kubernetes Gateway", []command{
		{
			document: `kubectl get crd gateways.gateway.networking.k8s.io &> /dev/null || \`,
			run:      `kubectl get crd gateways.gateway.networking.k8s.io &> /dev/null || kubectl apply --server-side -f $GATEWAY_API/config/crd/standard`, replaced: "the definitions come with the module sigs.k8s.io/gateway-api",
		},
		{
			document: `kubectl apply -f samples/bookinfo/gateway-api/bookinfo-gateway.yaml`,
			run:      `kubectl apply -f $SAMPLES/bookinfo/gateway-api/bookinfo-gateway.yaml`, replaced: local,
			check: contains("gateway.gateway.networking.k8s.io/bookinfo-gateway created", "httproute.gateway.networking.k8s.io/bookinfo created"),
		},
		{document: `k get po`, run: `kubectl get po`, replaced: "k is the reader's alias", eventually: true, check: pods("1/1", "bookinfo-gateway-istio")},
		{
			document: `k get svc`, run: `kubectl get svc`, replaced: "k is the reader's alias", eventually: true,
			check: matches(`^bookinfo-gateway-istio +LoadBalancer +\S+ +\S+ +15021:\d+/TCP,80:\d+/TCP`),
		},
		{
			document: `kubectl annotate gateway bookinfo-gateway networking.istio.io/service-type=NodePort --namespace=default`,
			run:      `kubectl annotate gateways.gateway.networking.k8s.io bookinfo-gateway networking.istio.io/service-type=NodePort --namespace=default --overwrite=true`,
			replaced: "with the document's next line; the full name, for gateway alone is Istio's kind where both are installed", check: contains("bookinfo-gateway annotate"),
		},
		{
			document: `k get svc`, run: `kubectl get svc`, replaced: "k is the reader's alias", eventually: true,
			check: matches(`^bookinfo-gateway-istio +NodePort +\S+ +<none> +15021:\d+/TCP,80:\d+/TCP`),
		},
		{run: `kubectl get svc bookinfo-gateway-istio -o jsonpath='{.spec.ports[?(@.port==80)].nodePort}'`, replaced: "where the reader's browser goes", save: "NODE_PORT", check: matches(`^\d+$`)},
		{run: `kubectl get node -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}'`, replaced: "where the reader's browser goes", save: "NODE_IP", check: matches(`^\d`)},
		{
			run:      `for i in $(seq 30); do curl --silent http://$NODE_IP:$NODE_PORT/productpage | grep -o 'reviews-v[123]' | head -n 1; done | sort | uniq -c`,
			replaced: "keep refreshing the page to see the three versions", eventually: true, check: contains("reviews-v1", "reviews-v2", "reviews-v3"),
		},
	}},
	{"4. Mutual TLS", []command{
		{run: `kubectl get svc productpage -o jsonpath='{.spec.clusterIP}'`, replaced: "the document's address is its own", save: "PRODUCTPAGE", check: matches(`^\d`)},
		{
			document: `curl 10.99.243.161:9080/api/v1/products`, run: `curl --silent --show-error $PRODUCTPAGE:9080/api/v1/products`, replaced: "the service's own address",
			check: matches(`"title": ?"The Comedy of Errors"`),
		},
		{document: `vi mlts.yml`, run: `ls samples/bookinfo/kube/strict.yaml`, replaced: noTerminal},
		{
			document: `k apply -f mlts.yml`, run: `kubectl apply -f samples/bookinfo/kube/strict.yaml`, replaced: "k is the reader's alias; the file is in this tree",
			check: contains("peerauthentication.security.istio.io/mtls-mode created"),
		},
		{
			document: `curl 10.99.243.161:9080/api/v1/products`, run: `curl --silent --show-error $PRODUCTPAGE:9080/api/v1/products`, replaced: "the service's own address",
			exit: 56, eventually: true, check: contains("curl: (56) Recv failure: Connection reset by peer"),
		},
		{
			run:      `curl --silent --output /dev/null --write-out '%{http_code}' http://$NODE_IP:$NODE_PORT/productpage`,
			replaced: "the page is still there through the gateway", check: contains("200"),
		},
	}},
	{"5. Canary deployment", []command{
		{document: `vi goto-v1.yml`, run: `ls $SAMPLES/bookinfo/networking/virtual-service-all-v1.yaml`, replaced: "Istio's file is the document's"},
		{
			document: `k apply -f goto-v1.yml`, run: `kubectl apply -f $SAMPLES/bookinfo/networking/virtual-service-all-v1.yaml`, replaced: "k is the reader's alias; Istio's file is the document's",
			check: contains("virtualservice.networking.istio.io/productpage created", "virtualservice.networking.istio.io/reviews created", "virtualservice.networking.istio.io/ratings created", "virtualservice.networking.istio.io/details created"),
		},
		{
			document: `k get vs`, run: `kubectl get vs`, replaced: "k is the reader's alias",
			check: all(matches(`^NAME +GATEWAYS +HOSTS +AGE`), matches(`^details +\["details"\]`), matches(`^reviews +\["reviews"\]`)),
		},
		{
			document: `kubectl apply -f samples/bookinfo/networking/destination-rule-all.yaml`,
			run:      `kubectl apply -f $SAMPLES/bookinfo/networking/destination-rule-all.yaml`, replaced: local,
			check: contains("destinationrule.networking.istio.io/productpage created", "destinationrule.networking.istio.io/reviews created", "destinationrule.networking.istio.io/ratings created", "destinationrule.networking.istio.io/details created"),
		},
		{
			document: `kubectl get destinationrules -o yaml`, run: `kubectl get destinationrules -o yaml`,
			check: contains("apiVersion: networking.istio.io/v1", "kind: DestinationRule", "name: details", "host: details"),
		},
		{
			run:      `for i in $(seq 30); do curl --silent http://$NODE_IP:$NODE_PORT/productpage | grep -o 'reviews-v[123]' | head -n 1; done`,
			replaced: "now the application always shows v1", eventually: true, check: all(count("reviews-v1", 30), lacks("reviews-v2", "reviews-v3")),
		},
		{
			run:      `kubectl apply -f $SAMPLES/bookinfo/networking/virtual-service-reviews-50-v3.yaml`,
			replaced: "Istio's file: in the document's manifest the weights are indented below destination, which the API server refuses by name", check: contains("virtualservice.networking.istio.io/reviews configured"),
		},
		{
			run:      `curl --silent "http://$NODE_IP:$NODE_PORT/productpage?u=[1-20]" | grep -c reviews-v3`,
			replaced: "a reader waits for the first answer of v3", eventually: true, check: matches(`^[1-9]`),
		},
		{
			run:      `for i in $(seq 200); do curl --silent http://$NODE_IP:$NODE_PORT/productpage | grep -o 'reviews-v[123]' | head -n 1; done`,
			replaced: "v1 and v3 share the traffic", check: all(share("reviews-v3", 200, 50), lacks("reviews-v2")),
		},
	}},
	{"6. The admission controller", []command{
		{
			document: `Kubectl get mutatingwebhookconfiguration istio-sidecar-injector`,
			run:      `kubectl get mutatingwebhookconfiguration istio-sidecar-injector -o yaml`, replaced: "in lower case; the document shows a part of the YAML",
			check: contains("name: namespace.sidecar-injector.istio.io", "name: object.sidecar-injector.istio.io", "name: rev.namespace.sidecar-injector.istio.io", "path: /inject", "port: 443", "failurePolicy: Fail", "matchPolicy: Equivalent", "reinvocationPolicy: Never", "sideEffects: None", "timeoutSeconds: 10"),
		},
	}},
	{"7. Kiali", []command{
		{document: `kubectl apply -f https://raw.githubusercontent.com/istio/istio/release-1.23/samples/addons/kiali.yaml`, pending: console},
		{document: `istioctl dashboard kiali`, pending: console},
	}},
}}
