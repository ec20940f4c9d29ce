// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// changedHost is the service whose endpoints and routes are changed.
const changedHost = "svc-0.ns-0.svc.cluster.local"

// generate writes the services, one file each as a user would have them, and one
// VirtualService.
func generate(p *plan, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range p.services {
		if err := writeService(dir, p, i, 0); err != nil {
			return err
		}
	}
	return writeRoute(dir, 0)
}

// writeService writes service i; each version has another first endpoint.
func writeService(dir string, p *plan, i, version int) error {
	ns := i % p.namespaces
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: svc-%[1]d
  namespace: ns-%[2]d
spec:
  hosts: [svc-%[1]d.ns-%[2]d.svc.cluster.local]
  addresses: [10.96.%[3]d.%[4]d]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
  endpoints:
`, i, ns, i/250, 1+i%250)
	for e := range p.endpoints {
		address := fmt.Sprintf("10.%d.%d.%d", 1+e, i/250, 1+i%250)
		if e == 0 && version > 0 {
			address = fmt.Sprintf("10.200.%d.%d", version/250, 1+version%250)
		}
		fmt.Fprintf(&b, "  - {address: %s, labels: {app: svc-%d, version: v%d}, serviceAccount: svc-%d}\n", address, i, 1+e%2, i)
	}
	return write(dir, fmt.Sprintf("svc-%d.yaml", i), b.String())
}

func writeRoute(dir string, version int) error {
	return write(dir, "route.yaml", fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: svc-0
  namespace: ns-0
spec:
  hosts: [%[1]s]
  http:
  - route:
    - destination: {host: %[1]s}
      weight: %[2]d
    - destination: {host: svc-1.ns-1.svc.cluster.local}
      weight: %[3]d
`, changedHost, 100-1-version%98, 1+version%98))
}

// write replaces a file at once.
func write(dir, name, text string) error {
	tmp := filepath.Join(dir, "."+name+".tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}
