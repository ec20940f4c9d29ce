// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lateen-mesh/lateen/test/lab/build"
	"github.com/lateen-mesh/lateen/test/lab/dns"
)

// kubeletConfig of a node. What it deviates from the defaults is for one of
// three reasons: the machine (old cgroups, a shared disk, no resolver), a quick
// start, or all files below the lab's directory.
func (s *State) kubeletConfig(n Node) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": s.path("pki", "ca.crt")},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"address":                  n.Address.String(),
		"healthzBindAddress":       "127.0.0.1",
		"tlsCertFile":              s.path("pki", "kubelet-"+n.Name+".crt"),
		"tlsPrivateKeyFile":        s.path("pki", "kubelet-"+n.Name+".key"),
		"clusterDomain":            Domain,
		"clusterDNS":               []string{DNS.String()},
		"resolvConf":               "/dev/null",
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + s.cgroup() + "/" + n.Name,
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"cpuManagerPolicy":         "none",
		"containerRuntimeEndpoint": "unix://" + s.nodeDir(n, "containerd.sock"),
		"podLogsDir":               s.nodeDir(n, "pods"),
		"volumePluginDir":          s.nodeDir(n, "volume-plugins"),
		"serializeImagePulls":      false,
		"makeIPTablesUtilChains":   false,
		"registerNode":             true,
		"maxPods":                  200,
		"enableProfilingHandler":   false,
		// A pod's changes reach it by watch; these bound the rest.
		"syncFrequency":                 "30s",
		"fileCheckFrequency":            "60s",
		"nodeStatusUpdateFrequency":     "5s",
		"nodeLeaseDurationSeconds":      40,
		"imageGCHighThresholdPercent":   100,
		"imageMinimumGCAge":             "168h",
		"evictionHard":                  map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
		"shutdownGracePeriod":           "0s",
		"oomScoreAdj":                   0,
		"eventRecordQPS":                0,
		"kubeAPIQPS":                    100,
		"kubeAPIBurst":                  200,
		"logging":                       map[string]any{"verbosity": 1},
		"localStorageCapacityIsolation": true,
	}
}

func (s *State) proxyConfig(n Node) map[string]any {
	return map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"clientConnection":   map[string]any{"kubeconfig": s.path("pki", "kube-proxy.conf")},
		"mode":               "nftables",
		"clusterCIDR":        Pods.String(),
		"nodePortAddresses":  []string{"primary"},
		"bindAddress":        n.Address.String(),
		"healthzBindAddress": n.Address.String() + ":10256",
		"metricsBindAddress": "127.0.0.1:10249",
		// A new Service answers sooner than after the default second.
		"nftables": map[string]any{"minSyncPeriod": "100ms"},
		// The machine's own limits stay: they belong to everyone on it.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
}

func (s *State) cniConfig(n Node) map[string]any {
	return map[string]any{
		"cniVersion": "1.0.0", "name": "lateen-lab-" + s.Name,
		"plugins": []any{
			// A routed link for each pod, rather than a bridge: replies then pass
			// the node's connection tracking whether or not br_netfilter is there.
			map[string]any{
				"type": "ptp", "ipMasq": false,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": s.nodeDir(n, "ipam"),
					"ranges": []any{[]any{map[string]any{"subnet": n.Pods.String()}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "backend": "nftables", "capabilities": map[string]any{"portMappings": true}},
		},
	}
}

func (s *State) containerdConfig(n Node) string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.healthcheck", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %[3]q
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.internal.v1.opt']
  path = %[4]q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[5]q
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = %[8]q
[plugins.'io.containerd.cri.v1.runtime']
  # Raising the priority of a process before the OOM killer needs
  # CAP_SYS_RESOURCE, which containers and small machines often lack.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%[6]q]
  conf_dir = %[7]q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`, s.nodeDir(n, "containerd"), s.nodeDir(n, "run"), s.nodeDir(n, "containerd.sock"), s.nodeDir(n, "opt"),
		build.PauseImage, s.CNI, s.nodeDir(n, "cni"), s.path("registries"))
}

// writeConfig writes the configuration of all components.
func (s *State) writeConfig() error {
	files := map[string]any{}
	for _, n := range s.Nodes {
		files[s.nodeDir(n, "kubelet.json")] = s.kubeletConfig(n)
		files[s.nodeDir(n, "kube-proxy.json")] = s.proxyConfig(n)
		files[s.nodeDir(n, "cni", "10-lab.conflist")] = s.cniConfig(n)
		files[s.nodeDir(n, "containerd.toml")] = s.containerdConfig(n)
		if err := os.MkdirAll(s.nodeDir(n, "volume-plugins"), 0o755); err != nil {
			return err
		}
	}
	first := s.Nodes[0].Address
	files[s.path("registries", "_default", "hosts.toml")] = s.mirrors()
	files[s.path("Corefile")] = dns.Corefile(first, s.Kubeconfig)
	// For programs of the machine that run in the lab; the search list is a pod's
	// in the namespace default.
	files[s.path("resolv.conf")] = fmt.Sprintf("nameserver %s\n", first)
	var errs []error
	for path, content := range files {
		text, ok := content.(string)
		if !ok {
			b, err := json.MarshalIndent(content, "", "  ")
			if err != nil {
				return err
			}
			text = string(b)
		}
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
	}
	// A user other than root may be the one that asks for names.
	return errors.Join(append(errs, os.Chmod(s.path("resolv.conf"), 0o644))...)
}
