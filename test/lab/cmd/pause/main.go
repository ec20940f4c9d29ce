// SPDX-License-Identifier: Apache-2.0

// Command pause is the process that holds a pod's namespaces: it waits, reaps
// what is orphaned in the pod, and ends when asked to. Given an address such as
// :8080 it also answers every HTTP request there with the pod's name, so that
// one image is enough to try a cluster.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	if len(os.Args) > 1 {
		l, err := net.Listen("tcp", os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, "pause:", err)
			os.Exit(1)
		}
		go serve(l)
	}
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		// One SIGCHLD may stand for several children.
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// serve answers one connection after the other: a client has a second to ask.
func serve(l net.Listener) {
	name, err := os.Hostname()
	if err != nil {
		name = err.Error()
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if c.SetDeadline(time.Now().Add(time.Second)) == nil {
			for r := bufio.NewReader(c); ; {
				line, _, err := r.ReadLine()
				if err != nil {
					break // a probe, which only connects
				}
				if len(line) == 0 {
					fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n%s\n", name)
					break
				}
			}
		}
		c.Close()
	}
}
