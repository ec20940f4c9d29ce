// SPDX-License-Identifier: Apache-2.0

// Command controlplane measures lateend under many sidecars: it starts lateend
// on a generated directory of services, connects synthetic delta xDS clients
// from a process of their own, changes one endpoint and one VirtualService
// again and again, and prints what it took beside the goals. With -kubernetes
// the services are in a cluster, and a change is one request to its API server.
//
//	go run ./test/bench/controlplane              # needs bin/lateend
//	go run ./test/bench/controlplane -synthetic   # the discovery service alone
//	bin/lab run go run ./test/bench/controlplane -kubernetes   # docs/lab.md
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// plan is what to measure.
type plan struct {
	lateend    string
	synthetic  bool
	kubernetes bool
	kubeconfig string
	clients    int
	rate       float64
	services   int
	endpoints  int
	namespaces int
	rounds     int
	keep       bool
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "fleet":
			exit(runFleet(os.Args[2:], os.Stdin, os.Stdout))
		case "serve":
			exit(runSynthetic(os.Args[2:], os.Stdin, os.Stdout))
		}
	}
	var p plan
	flag.StringVar(&p.lateend, "lateend", "bin/lateend", "the binary to measure")
	flag.BoolVar(&p.synthetic, "synthetic", false, "measure the discovery service alone, over made-up resources")
	flag.BoolVar(&p.kubernetes, "kubernetes", false, "measure lateend on a cluster in which no control plane runs")
	flag.StringVar(&p.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "that cluster, as administrator")
	flag.IntVar(&p.clients, "clients", 500, "sidecars")
	flag.Float64Var(&p.rate, "rate", 20, "connections per second; 0 is as fast as possible")
	flag.IntVar(&p.services, "services", 1000, "services")
	flag.IntVar(&p.endpoints, "endpoints", 10, "endpoints of each service")
	flag.IntVar(&p.namespaces, "namespaces", 50, "namespaces the services and sidecars are in")
	flag.IntVar(&p.rounds, "rounds", 20, "changes of each kind")
	flag.BoolVar(&p.keep, "keep", false, "keep the generated directory and lateend's log")
	flag.Parse()
	exit(p.run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (p *plan) run() error {
	dir, err := os.MkdirTemp("", "lateen-bench-")
	if err != nil {
		return err
	}
	if p.keep {
		fmt.Fprintln(os.Stderr, "directory:", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	var s *server
	switch {
	case p.synthetic:
		s, err = startSynthetic(p)
	case p.kubernetes:
		s, err = startCluster(p, dir)
	default:
		s, err = startLateend(p, dir)
	}
	if err != nil {
		return err
	}
	defer s.stop()
	return p.measure(s)
}

// result is what was measured.
type result struct {
	startup     time.Duration
	startCPU    time.Duration
	empty, full memory
	connect     time.Duration
	connectCPU  time.Duration
	perClient   int64
	resources   map[string]int
	endpoint    series
	route       series
}

// series is one kind of change, repeated.
type series struct {
	last   []time.Duration // from the event to the last client, by round
	each   []time.Duration // to every client, all rounds
	bytes  int64           // received by all clients, all rounds
	cpu    time.Duration   // of the server, all rounds
	rounds int
}

func (p *plan) measure(s *server) error {
	r := result{startup: s.startup, startCPU: s.cpu(), empty: s.memory()}
	f, err := startFleet(p, s.addr)
	if err != nil {
		return err
	}
	defer f.stop()
	e, err := f.wait("connected")
	if err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // the last answers, and the collector
	r.connect = time.Duration(e.Seconds * float64(time.Second))
	r.connectCPU = s.cpu() - r.startCPU
	r.full = s.memory()
	r.perClient, r.resources = e.Bytes/int64(p.clients), e.Resources
	if r.endpoint, err = p.repeat(s, f, s.changeEndpoint, watch{Types: []string{"ClusterLoadAssignment"}, Name: changedHost}); err != nil {
		return fmt.Errorf("endpoint change: %w", err)
	}
	if r.route, err = p.repeat(s, f, s.changeRoute, watch{Types: []string{"VirtualHost", "RouteConfiguration"}}); err != nil {
		return fmt.Errorf("VirtualService change: %w", err)
	}
	p.print(os.Stdout, &r, s)
	return nil
}

// repeat makes one kind of change, again and again.
func (p *plan) repeat(s *server, f *fleet, change func(n int) error, w watch) (series, error) {
	out := series{rounds: p.rounds}
	cpu := s.cpu()
	for n := range p.rounds {
		if err := f.send(command{Op: "watch", Watch: w}); err != nil {
			return out, err
		}
		if _, err := f.wait("watching"); err != nil {
			return out, err
		}
		at := time.Now()
		if err := change(n); err != nil {
			return out, err
		}
		e, err := f.wait("seen")
		if err != nil {
			return out, err
		}
		slices.Sort(e.At)
		for _, ns := range e.At {
			out.each = append(out.each, time.Unix(0, ns).Sub(at))
		}
		out.last = append(out.last, time.Unix(0, e.At[len(e.At)-1]).Sub(at))
		time.Sleep(700 * time.Millisecond) // what else the change causes
		if err := f.send(command{Op: "bytes"}); err != nil {
			return out, err
		}
		if e, err = f.wait("bytes"); err != nil {
			return out, err
		}
		out.bytes += e.Bytes
	}
	out.cpu = s.cpu() - cpu
	slices.Sort(out.last)
	slices.Sort(out.each)
	return out, nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (p *plan) print(w io.Writer, r *result, s *server) {
	fmt.Fprintf(w, "%s, %d services x %d endpoints in %d namespaces, %d sidecars\n", s.what, p.services, p.endpoints, p.namespaces, p.clients)
	fmt.Fprintf(w, "resources of one sidecar: %v\n\n", r.resources)
	row := func(figure, got, goal string) { fmt.Fprintf(w, "%-46s %18s   %s\n", figure, got, goal) }
	row("figure", "measured", "goal")
	row("first build, seconds to ready / CPU-seconds", fmt.Sprintf("%.2f / %.2f", r.startup.Seconds(), r.startCPU.Seconds()), "CPU <= 1.5")
	row("memory before any sidecar, Pss / RSS, MiB", r.empty.String(), "")
	row("memory with all connected, Pss / RSS, MiB", r.full.String(), cmp.Or(map[int]string{500: "<= 150", 2000: "<= 300"}[p.clients]))
	row("highest RSS so far, MiB", fmt.Sprintf("%.0f", r.full.peak), "")
	row("configuration per sidecar, KB", fmt.Sprintf("%.0f", float64(r.perClient)/1000), "")
	row("connecting all, seconds", fmt.Sprintf("%.1f", r.connect.Seconds()), "")
	row("connecting all, CPU-seconds", fmt.Sprintf("%.2f", r.connectCPU.Seconds()), cmp.Or(map[int]string{500: "<= 4"}[p.clients]))
	for _, c := range []struct {
		name           string
		s              series
		goal, cpu, net string
	}{{"endpoint change", r.endpoint, "p99 <= 100", "", ""}, {"VirtualService change", r.route, "p99 <= 150", "<= 0.1", "<= 2"}} {
		ms := func(d time.Duration) string { return fmt.Sprintf("%.0f", float64(d)/1e6) }
		row(c.name+", to a sidecar, p50 / p99, ms", ms(quantile(c.s.each, .5))+" / "+ms(quantile(c.s.each, .99)), c.goal)
		row(c.name+", to the last sidecar, p50 / p99, ms", ms(quantile(c.s.last, .5))+" / "+ms(quantile(c.s.last, .99)), c.goal)
		row(c.name+", CPU-seconds", fmt.Sprintf("%.3f", c.s.cpu.Seconds()/float64(c.s.rounds)), c.cpu)
		row(c.name+", MB to all sidecars", fmt.Sprintf("%.2f", float64(c.s.bytes)/1e6/float64(c.s.rounds)), c.net)
	}
}

// fleet is the process of the clients.
type fleet struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startFleet(p *plan, addr string) (*fleet, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &fleet{cmd: exec.Command(self, "fleet", "-addr", addr, "-clients", fmt.Sprint(p.clients), "-rate", fmt.Sprint(p.rate), "-namespaces", fmt.Sprint(p.namespaces))}
	f.in, f.out, err = start(f.cmd)
	return f, err
}

// start runs a process that dies with this one and talks in lines.
func start(cmd *exec.Cmd) (io.WriteCloser, *bufio.Scanner, error) {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	return in, lines, cmd.Start()
}

func (f *fleet) send(c command) error { return json.NewEncoder(f.in).Encode(c) }

// wait returns the next event, which must be of that name. A fleet that gets no
// further says so itself.
func (f *fleet) wait(name string) (event, error) {
	var e event
	if !f.out.Scan() {
		return e, fmt.Errorf("the clients ended before %q: %v", name, f.out.Err())
	}
	if err := json.Unmarshal(f.out.Bytes(), &e); err != nil {
		return e, err
	}
	if e.Name != name {
		return e, fmt.Errorf("the clients say %q (%s), not %q", e.Name, e.Error, name)
	}
	return e, nil
}

func (f *fleet) stop() {
	f.in.Close()
	_ = f.cmd.Process.Kill() // it may have ended already
	_ = f.cmd.Wait()         // killed: the error says so
}

func lateendLog(dir string) string { return filepath.Join(dir, "lateend.log") }
