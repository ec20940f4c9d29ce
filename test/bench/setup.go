// SPDX-License-Identifier: Apache-2.0

package main

import (
	"embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed conf
var conf embed.FS

// bench holds what the scenarios share.
type bench struct {
	dir    string
	lateen string
	origin int // port
	procs  []*process
	n      int
}

// setup is one proxy in one scenario: one process, or two in a row.
type setup struct {
	kind  string
	port  int
	procs []*process
}

func (b *bench) stop() {
	for _, p := range b.procs {
		p.stop()
	}
}

// freePort asks the kernel for a port that is free now.
func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

func (b *bench) startOrigin() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.origin = port
	_, err = b.launch("nginx", "nginx-origin.conf", port, 0, false, false)
	return err
}

// start runs a proxy for a scenario: "hop" is one plaintext hop, "mtls" two
// with mutual TLS between them.
func (b *bench) start(kind, scenario string) (*setup, error) {
	file := map[string]string{"haproxy": "haproxy.cfg", "nginx": "nginx.conf", "lateen": "lateen.yaml"}[kind]
	s := &setup{kind: kind}
	upstream := b.origin
	if scenario == "mtls" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		p, err := b.launch(kind, file, port, upstream, true, false)
		if err != nil {
			return nil, err
		}
		s.procs, upstream = append(s.procs, p), port
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := b.launch(kind, file, port, upstream, false, scenario == "mtls")
	if err != nil {
		return nil, err
	}
	s.procs, s.port = append(s.procs, p), port
	return s, nil
}

// launch writes a configuration and runs a program on it.
func (b *bench) launch(kind, file string, port, upstream int, serverTLS, clientTLS bool) (*process, error) {
	b.n++
	name := fmt.Sprintf("%s-%d", kind, b.n)
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	text, err := b.render(kind, file, serverTLS, clientTLS)
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if clientTLS {
		scheme = "https"
	}
	text = strings.NewReplacer("@DIR@", b.dir, "@NAME@", name, "@PORT@", strconv.Itoa(port), "@UPSTREAM@", strconv.Itoa(upstream),
		"@ADMIN@", strconv.Itoa(admin), "@SCHEME@", scheme, "@BODY@", strings.Repeat("x", 1024)).Replace(text)
	path := filepath.Join(b.dir, name+filepath.Ext(file))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var argv []string
	switch kind {
	case "haproxy":
		argv = []string{tool("haproxy"), "-f", path}
	case "nginx":
		argv = []string{tool("nginx"), "-c", path, "-e", filepath.Join(b.dir, name+".log")}
	default:
		argv = []string{b.lateen, "run", "-c", path}
	}
	p, err := startProcess(argv, port)
	if err != nil {
		return nil, err
	}
	b.procs = append(b.procs, p)
	return p, nil
}

// render puts the TLS parts into a configuration.
func (b *bench) render(kind, file string, serverTLS, clientTLS bool) (string, error) {
	text, err := conf.ReadFile("conf/" + file)
	if err != nil {
		return "", err
	}
	part := func(name string, on bool) (string, error) {
		if !on {
			return "", nil
		}
		t, err := conf.ReadFile("conf/" + kind + "-" + name)
		return strings.TrimRight(string(t), "\n"), err
	}
	server, err := part("server-tls", serverTLS)
	if err != nil {
		return "", err
	}
	client, err := part("client-tls", clientTLS)
	if err != nil {
		return "", err
	}
	return strings.NewReplacer("@SERVER_TLS@", server, "@CLIENT_TLS@", client).Replace(string(text)), nil
}

// tool finds a program that Debian may keep out of a user's PATH.
func tool(name string) string {
	if _, err := os.Stat("/usr/sbin/" + name); err == nil {
		return "/usr/sbin/" + name
	}
	return name
}
