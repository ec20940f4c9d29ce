// SPDX-License-Identifier: Apache-2.0

// Command bench measures lateen-proxy beside HAProxy and nginx on the machine
// it runs on: CPU per request, latency and memory, with wrk -t1 -c32 and 1 KiB
// bodies over kept connections, in interleaved rounds. `make bench` runs it.
//
// The CPU charged is the user and system time of all processes of a proxy, from
// /proc; neither wrk nor the origin is charged. Ratios within one run are what
// counts: the figures themselves are the machine's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// result is one proxy in one scenario, the median of the rounds.
type result struct {
	Scenario string  `json:"scenario"`
	Proxy    string  `json:"proxy"`
	CPU      float64 `json:"cpu_us_per_request"`
	Ratio    float64 `json:"cpu_ratio_to_haproxy"`
	Rate     float64 `json:"requests_per_second"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Pss      int64   `json:"pss_kib"`
	Errors   int     `json:"errors"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	lateen := flag.String("proxy", "bin/lateen-proxy", "the lateen-proxy to measure")
	duration := flag.Duration("duration", 5*time.Second, "length of one measurement")
	rounds := flag.Int("rounds", 3, "interleaved rounds, of which the median counts")
	output := flag.String("o", "table", "table or json")
	only := flag.String("only", "", "measure one scenario: hop or mtls")
	flag.Parse()
	if *output != "table" && *output != "json" {
		return fmt.Errorf("-o %q: must be table or json", *output)
	}
	dir, err := os.MkdirTemp("", "lateen-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeCertificates(dir); err != nil {
		return err
	}
	b := &bench{dir: dir, lateen: *lateen}
	defer b.stop()
	if err := b.startOrigin(); err != nil {
		return err
	}
	var all []result
	for _, s := range []string{"hop", "mtls"} {
		if *only != "" && *only != s {
			continue
		}
		rs, err := b.measure(ctx, s, *rounds, *duration)
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		all = append(all, rs...)
	}
	if *output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(all)
	}
	return print(all)
}

func print(all []result) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scenario\tproxy\tCPU us/req\tratio\treq/s\tp50 ms\tp99 ms\tPss MiB\terrors\t")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.2f\t%.0f\t%.2f\t%.2f\t%.1f\t%d\t\n", r.Scenario, r.Proxy, r.CPU, r.Ratio, r.Rate, r.P50, r.P99, float64(r.Pss)/1024, r.Errors)
	}
	return w.Flush()
}

// measure runs one scenario's proxies side by side and loads them in turns.
func (b *bench) measure(ctx context.Context, scenario string, rounds int, d time.Duration) ([]result, error) {
	var setups []*setup
	for _, kind := range []string{"haproxy", "nginx", "lateen"} {
		s, err := b.start(kind, scenario)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		setups = append(setups, s)
	}
	runs := map[*setup][]result{}
	for round := range rounds {
		for _, s := range setups {
			if round == 0 { // connections, pools, sessions
				if _, err := s.load(ctx, time.Second); err != nil {
					return nil, fmt.Errorf("%s: %w", s.kind, err)
				}
			}
			r, err := s.load(ctx, d)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.kind, err)
			}
			fmt.Fprintf(os.Stderr, "%s %s round %d: %.1f us/request, %.0f requests/s\n", scenario, s.kind, round+1, r.CPU, r.Rate)
			runs[s] = append(runs[s], r)
		}
	}
	var out []result
	for _, s := range setups {
		r := median(runs[s])
		r.Scenario, r.Proxy = scenario, s.kind
		out = append(out, r)
		for _, p := range s.procs {
			p.stop()
		}
	}
	for i := range out {
		out[i].Ratio = out[i].CPU / out[0].CPU
	}
	return out, nil
}

// median takes each figure's median on its own; errors add up.
func median(rs []result) result {
	of := func(get func(*result) float64) float64 {
		var v []float64
		for i := range rs {
			v = append(v, get(&rs[i]))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	r := result{
		CPU:  of(func(r *result) float64 { return r.CPU }),
		Rate: of(func(r *result) float64 { return r.Rate }),
		P50:  of(func(r *result) float64 { return r.P50 }),
		P99:  of(func(r *result) float64 { return r.P99 }),
		Pss:  int64(of(func(r *result) float64 { return float64(r.Pss) })),
	}
	for i := range rs {
		r.Errors += rs[i].Errors
	}
	return r
}

// lastLine is the end of a process's output, for its error.
func lastLine(b []byte) error {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return errors.New(lines[len(lines)-1])
}
