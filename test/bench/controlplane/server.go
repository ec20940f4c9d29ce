// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// server is the process under measurement.
type server struct {
	what           string
	cmd            *exec.Cmd
	addr           string
	startup        time.Duration
	changeEndpoint func(n int) error
	changeRoute    func(n int) error
	cleanup        func() // nil: nothing to do
}

// memory is in MiB.
type memory struct{ pss, rss, peak float64 }

func (m memory) String() string { return fmt.Sprintf("%.0f / %.0f", m.pss, m.rss) }

func (s *server) stop() {
	if s.cleanup != nil {
		defer s.cleanup()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // stopped by a signal: the error says so
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill() // it may have ended just now
		<-done
	}
}

// cpu is the user and system time of the process, in steps of 10 ms.
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (s *server) memory() memory {
	read := func(file, key string) float64 {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, file))
		if err != nil {
			return 0
		}
		defer f.Close()
		for l := bufio.NewScanner(f); l.Scan(); {
			if v, ok := strings.CutPrefix(l.Text(), key+":"); ok {
				kb, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
				return kb / 1024
			}
		}
		return 0
	}
	return memory{pss: read("smaps_rollup", "Pss"), rss: read("status", "VmRSS"), peak: read("status", "VmHWM")}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startLateend starts lateend on a generated directory.
func startLateend(p *plan, dir string) (*server, error) {
	config := filepath.Join(dir, "config")
	if err := generate(p, config); err != nil {
		return nil, err
	}
	s, err := launch(p, dir, []string{"--config-dir", config, "--state-dir", filepath.Join(dir, "state"),
		"--socket", filepath.Join(dir, "socket"), "--name", "bench"})
	if err != nil {
		return nil, err
	}
	s.what = "lateend"
	s.changeEndpoint = func(n int) error { return writeService(config, p, 0, n+1) }
	s.changeRoute = func(n int) error { return writeRoute(config, n+1) }
	return s, nil
}

// launch starts lateend with these arguments, its log in dir, and waits until
// it has views to serve.
func launch(p *plan, dir string, args []string, env ...string) (*server, error) {
	bin, err := filepath.Abs(p.lateend)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("%w; run make build, or use -synthetic", err)
	}
	var addrs [3]string
	for i := range addrs {
		if addrs[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(lateendLog(dir))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{addr: addrs[0]}
	s.cmd = exec.Command(bin, append(args, "--xds-plaintext-address", addrs[0], "--xds-address", addrs[1], "--debug-address", addrs[2])...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := ready(s.addr); err != nil {
		s.stop()
		text, _ := os.ReadFile(lateendLog(dir)) // the error without it is worth something too
		return nil, fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4000):])
	}
	s.startup = time.Since(begin)
	return s, nil
}

// ready waits until a sidecar is answered.
func ready(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	defer cc.Close()
	for {
		err := func() error {
			s, err := discovery.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
			if err != nil {
				return err
			}
			if err := s.Send(&discovery.DeltaDiscoveryRequest{Node: sidecar(0, 1), TypeUrl: clusterType}); err != nil {
				return err
			}
			r, err := s.Recv()
			if err == nil && len(r.Resources) == 0 {
				err = errors.New("it has no clusters")
			}
			return err
		}()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lateend is not ready: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
