// SPDX-License-Identifier: Apache-2.0

// Package dns is the DNS proxy beside an application: it answers for the names
// of the mesh from the control plane's name table and forwards the rest to the
// servers of resolv.conf.
package dns

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// ResolvConf is what resolv.conf(5) says that matters here.
type ResolvConf struct {
	Servers []netip.Addr // with their zones
	Search  []string     // without trailing dots, lower case
}

// maxResolvConf bounds what is read of the file, in bytes.
const maxResolvConf = 64 << 10

// ReadResolvConf reads a resolv.conf. Lines that it does not understand are
// skipped, as resolvers do.
func ReadResolvConf(path string) (ResolvConf, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return ResolvConf{}, fmt.Errorf("read DNS servers: %w", err)
	}
	return parseResolvConf(string(b[:min(len(b), maxResolvConf)])), nil
}

func parseResolvConf(text string) ResolvConf {
	var c ResolvConf
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0][0] == '#' || words[0][0] == ';' {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				c.Servers = append(c.Servers, a.Unmap())
			}
		case "domain", "search": // the last one counts
			c.Search = nil
			for _, s := range words[1:] {
				if s = strings.ToLower(strings.Trim(s, ".")); s != "" {
					c.Search = append(c.Search, s)
				}
			}
		}
	}
	return c
}
