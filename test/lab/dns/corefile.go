// SPDX-License-Identifier: Apache-2.0

// Package dns renders the configuration of the lab's CoreDNS: the cluster's own
// names, the names of nip.io that carry an address, and nothing else.
package dns

import (
	"fmt"
	"net/netip"
	"strings"
)

// octet is a number from 0 to 255.
const octet = `(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])`

// NipIO are the patterns of names below nip.io that mean an IPv4 address, each
// with the address's octets as its last four groups: a.b.c.d.nip.io, or a-b-c-d,
// with any name and a dot or dash in front. See https://nip.io.
var NipIO = []string{
	`^(|.*[.-])` + strings.Repeat(octet+`\.`, 4) + `nip\.io\.$`,
	`^(|.*[.-])` + strings.Repeat(octet+`-`, 3) + octet + `\.nip\.io\.$`,
}

// Corefile answers at address, reading Services with kubeconfig.
func Corefile(address netip.Addr, kubeconfig string) string {
	const server = `%s {
  bind %s
  errors
%s}
`
	nip := "  template IN A nip.io {\n"
	for _, p := range NipIO {
		nip += "    match " + p + "\n"
	}
	nip += `    answer "{{ .Name }} 60 IN A {{ index .Match 2 }}.{{ index .Match 3 }}.{{ index .Match 4 }}.{{ index .Match 5 }}"
    fallthrough
  }
  template IN ANY nip.io {
    match ^(|.*[.-])[0-9.-]+\.nip\.io\.$
    rcode NOERROR
    fallthrough
  }
` + nothing
	cluster := fmt.Sprintf(`  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig %s
    pods insecure
    fallthrough in-addr.arpa ip6.arpa
    ttl 5
  }
`, kubeconfig)
	return fmt.Sprintf(server, "cluster.local in-addr.arpa ip6.arpa", address, cluster) +
		fmt.Sprintf(server, "nip.io", address, nip) +
		fmt.Sprintf(server, ".", address, nothing)
}

// nothing answers at once that there is no such name, rather than ask a network
// that is not there.
const nothing = `  template ANY ANY {
    rcode NXDOMAIN
  }
`
