// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
)

// components lists every process of the lab in the order of their start. exe is
// the lab program itself, which runs as some of them.
func (s *State) components(exe string) []Component {
	first := s.Nodes[0]
	var out []Component
	for _, n := range s.Nodes {
		out = append(out, Component{Name: "containerd-" + n.Name, Node: n.Name, Args: []string{"containerd", "--config", s.nodeDir(n, "containerd.toml"), "--log-level", "warn"}})
	}
	out = append(out,
		Component{Name: "etcd", Node: first.Name, Args: s.etcd()},
		Component{Name: "kube-apiserver", Node: first.Name, Args: s.apiServer()},
		Component{Name: "kube-controller-manager", Node: first.Name, Args: s.controllerManager()},
		Component{Name: "kube-scheduler", Node: first.Name, Args: []string{
			"kube-scheduler", "--kubeconfig=" + s.path("pki", "kube-scheduler.conf"), "--leader-elect=false", "--profiling=false",
			"--bind-address=127.0.0.1", "--tls-cert-file=" + s.path("pki", "kube-scheduler.crt"), "--tls-private-key-file=" + s.path("pki", "kube-scheduler.key"),
			"--kube-api-qps=100", "--kube-api-burst=200",
		}},
	)
	for _, n := range s.Nodes {
		out = append(out, Component{Name: "kubelet-" + n.Name, Node: n.Name, Args: []string{
			"kubelet", "--config=" + s.nodeDir(n, "kubelet.json"), "--kubeconfig=" + s.path("pki", "kubelet-"+n.Name+".conf"),
			"--hostname-override=" + n.Name, "--node-ip=" + n.Address.String(),
			"--root-dir=" + s.nodeDir(n, "kubelet"), "--cert-dir=" + s.path("pki"),
			fmt.Sprintf("--node-labels=topology.kubernetes.io/region=%s,topology.kubernetes.io/zone=%s", n.Region, n.Zone),
		}}, Component{Name: "kube-proxy-" + n.Name, Node: n.Name, Args: []string{
			"kube-proxy", "--config=" + s.nodeDir(n, "kube-proxy.json"), "--hostname-override=" + n.Name,
		}})
	}
	return append(out,
		Component{Name: "coredns", Node: first.Name, Args: []string{"coredns", "-conf", s.path("Corefile")}},
		Component{Name: "metrics-server", Node: first.Name, Args: []string{
			"metrics-server", "--kubeconfig=" + s.path("pki", "metrics-server.conf"),
			"--authentication-kubeconfig=" + s.path("pki", "metrics-server.conf"), "--authorization-kubeconfig=" + s.path("pki", "metrics-server.conf"),
			"--bind-address=" + first.Address.String(), "--secure-port=4443",
			"--tls-cert-file=" + s.path("pki", "metrics-server.crt"), "--tls-private-key-file=" + s.path("pki", "metrics-server.key"),
			"--kubelet-certificate-authority=" + s.path("pki", "ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--metric-resolution=10s", "--kubelet-request-timeout=5s",
		}},
		Component{Name: "registry", Node: first.Name, Args: []string{exe, "registry", "--dir", s.Dir}},
		Component{Name: "load-balancer", Node: first.Name, Args: []string{exe, "load-balancer", "--kubeconfig", s.Kubeconfig}},
	)
}

func (s *State) etcd() []string {
	return []string{
		"etcd", "--name=lab", "--data-dir=" + s.path("etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=lab=http://127.0.0.1:2380",
		// What it holds does not outlive the lab.
		"--unsafe-no-fsync", "--log-level=warn",
	}
}

func (s *State) apiServer() []string {
	pki := func(name string) string { return s.path("pki", name) }
	return []string{
		"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + s.Nodes[0].Address.String(), "--secure-port=6443",
		"--service-cluster-ip-range=" + Services.String(),
		"--client-ca-file=" + pki("ca.crt"), "--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + Domain,
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false", "--cert-dir=" + s.path("pki"),
		"--shutdown-delay-duration=0s",
	}
}

func (s *State) controllerManager() []string {
	pki := func(name string) string { return s.path("pki", name) }
	return []string{
		"kube-controller-manager", "--kubeconfig=" + pki("kube-controller-manager.conf"),
		"--authentication-kubeconfig=" + pki("kube-controller-manager.conf"), "--authorization-kubeconfig=" + pki("kube-controller-manager.conf"),
		"--service-account-private-key-file=" + pki("sa.key"), "--root-ca-file=" + pki("ca.crt"),
		"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
		"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"),
		"--use-service-account-credentials", "--leader-elect=false", "--profiling=false",
		"--bind-address=127.0.0.1", "--tls-cert-file=" + pki("kube-controller-manager.crt"), "--tls-private-key-file=" + pki("kube-controller-manager.key"),
		"--cluster-name=" + s.Name, "--service-cluster-ip-range=" + Services.String(),
		"--kube-api-qps=100", "--kube-api-burst=200",
		"--horizontal-pod-autoscaler-sync-period=10s",
		"--node-monitor-period=5s", "--node-monitor-grace-period=50s",
	}
}
