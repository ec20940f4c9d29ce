// SPDX-License-Identifier: Apache-2.0

package kubernetes

// stepByStep is "Istio — Service Mesh on top of Kubernetes": a pod before and
// after its namespace is labelled, and the mesh removed again.
var stepByStep = scenario{document: "002", steps: []step{
	{"1. to 3. Install", []command{
		{run: `lateen check --pre`, replaced: "the document reads the help page first", check: lacks("×")},
		{
			document: `istioctl install — set meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true`,
			run:      `lateen install --set meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true --skip-confirmation`,
			replaced: ours + "; two hyphens for the document's dash", check: contains("Installation complete"),
		},
	}},
	{"4. Verify the installation", []command{
		{run: `kubectl get pods -n istio-system`, replaced: inWords, eventually: true, check: pods("1/1", "istiod", "istio-ingressgateway")},
		{run: `lateen check`, replaced: inWords, eventually: true, check: lacks("×")},
	}},
	{"5. A microservice before anything is enabled", []command{
		{run: `kubectl apply -f samples/todo/kube/todo.yaml && kubectl rollout status deployment/todoui`, replaced: inWords, check: contains("successfully rolled out")},
		{run: `kubectl get pods`, replaced: inWords, eventually: true, check: pods("1/1", "todobackend", "todoui")},
		{run: `kubectl describe pod -l app=todoui`, replaced: inWords, check: all(contains("todoui:"), lacks("istio-proxy"))},
	}},
	{"6. Enable injection", []command{
		{run: `kubectl label namespace default istio-injection=enabled`, replaced: inWords, check: contains("namespace/default labeled")},
	}},
	{"7. Remove the deployment and deploy it again", []command{
		{run: `kubectl delete -f samples/todo/kube/todo.yaml --wait=true`, replaced: inWords, check: contains("deleted")},
		{run: `kubectl apply -f samples/todo/kube/todo.yaml && kubectl rollout status deployment/todoui && kubectl rollout status deployment/todobackend`, replaced: inWords, check: contains("successfully rolled out")},
		{run: `kubectl get pods`, replaced: inWords, eventually: true, check: pods("2/2", "todobackend", "todoui")},
		{run: `kubectl describe pod -l app=todoui`, replaced: inWords, check: contains("todoui:", "istio-proxy:")},
		{
			run:      `curl --silent --retry 20 --retry-all-errors "http://$(kubectl get svc todoui -o jsonpath='{.status.loadBalancer.ingress[0].ip}'):8090" | head -n 4`,
			replaced: "it still serves", check: contains("<html"),
		},
	}},
	{"8. Remove it from the cluster", []command{
		{
			document: `istioctl x uninstall — purge`, run: `lateen x uninstall --purge --skip-confirmation`,
			replaced: ours + "; two hyphens for the document's dash", check: contains("Uninstall complete"),
		},
		{run: `kubectl get all,configmaps,secrets,leases.coordination.k8s.io,poddisruptionbudgets,serviceaccounts -A -o name | grep -iE 'istio|lateen'`, replaced: "nothing is left", exit: 1, eventually: true, check: empty},
		{run: `kubectl get crd,mutatingwebhookconfiguration,validatingwebhookconfiguration,clusterrole,clusterrolebinding,ingressclass -o name | grep -iE 'istio|lateen'`, replaced: "nothing is left", exit: 1, eventually: true, check: empty},
	}},
}}
