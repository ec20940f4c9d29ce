// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"
)

// errRemoved is the cause of a workload's end when its object went away while
// the mesh goes on: then others must forget it before it closes.
var errRemoved = errors.New("removed")

// runner keeps the running workloads equal to the wanted ones.
type runner struct {
	m       *machine
	mu      sync.Mutex
	running map[string]*unit // by workload.key()
	wg      sync.WaitGroup
}

type unit struct {
	workload workload
	cancel   context.CancelCauseFunc
	done     chan struct{}
}

// apply starts, restarts and stops what differs. It does not wait: a workload
// that takes another's place, by name or address, waits for it to be gone.
func (r *runner) apply(ctx context.Context, wanted []workload, settled func(w workload, runs bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keep := map[string]bool{}
	for _, w := range wanted {
		if old := r.running[w.key()]; old != nil && reflect.DeepEqual(old.workload, w) {
			keep[w.key()] = true
		}
	}
	leaving := map[netip.Addr]chan struct{}{}
	for key, old := range r.running {
		if !keep[key] {
			old.cancel(errRemoved)
			leaving[old.workload.Address] = old.done
			delete(r.running, key)
		}
	}
	for _, w := range wanted {
		if keep[w.key()] {
			continue
		}
		wctx, cancel := context.WithCancelCause(ctx)
		run := &unit{workload: w, cancel: cancel, done: make(chan struct{})}
		r.running[w.key()] = run
		before := leaving[w.Address]
		var once sync.Once
		report := func(runs bool) { once.Do(func() { settled(w, runs) }) }
		r.wg.Go(func() {
			defer close(run.done)
			defer report(false)
			if before != nil {
				<-before
			}
			r.m.runWorkload(wctx, w, report)
		})
	}
}

func (r *runner) wait() { r.wg.Wait() }

// runWorkload runs one workload until ctx ends: first the application, and
// when that is ready its sidecar, so that nothing is let in too early; in the
// end the sidecar drains before the application goes.
func (m *machine) runWorkload(ctx context.Context, w workload, settled func(runs bool)) {
	began := time.Now()
	if err := m.checkPorts(w); err != nil {
		m.progress.wrong(w.display(), err.Error(), nil)
		return
	}
	// The processes outlive ctx by what an orderly end takes.
	appCtx, stopApp := context.WithCancel(context.WithoutCancel(ctx))
	proxyCtx, stopProxy := context.WithCancel(context.WithoutCancel(ctx))
	defer stopApp()
	defer stopProxy()

	var app, proxy sync.WaitGroup
	if !w.gateway() {
		ready, err := m.startApp(appCtx, w, &app, settled)
		if err != nil {
			m.progress.wrong(w.display(), err.Error(), nil)
			return
		}
		select {
		case <-ready:
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil {
		detail := w.nodeIP()
		first := sync.OnceFunc(func() {
			m.progress.ready(w.display(), detail, time.Since(began))
			settled(true)
		})
		if err := m.startProxy(proxyCtx, w, &proxy, first, settled); err != nil {
			m.progress.wrong(w.display(), err.Error(), nil)
			settled(false)
		}
		<-ctx.Done()
	}
	removed := errors.Is(context.Cause(ctx), errRemoved)
	if removed {
		m.forgotten(w)
	} else {
		m.ending.Store(true)
	}
	stopProxy()
	proxy.Wait()
	stopApp()
	app.Wait()
	if removed {
		m.progress.gone(w.display(), "removed")
	}
}

// grace is how long a process may take to end: as long as draining may take
// while the mesh goes on, and not long when all of it ends, for then an idle
// connection, such as a browser's, is nothing to wait for.
func (m *machine) grace() time.Duration {
	if m.ending.Load() {
		return 2 * time.Second
	}
	return 15 * time.Second
}

// checkPorts names the holder of any port the workload needs.
func (m *machine) checkPorts(w workload) error {
	need := []netip.AddrPort{netip.AddrPortFrom(w.Address, adminPort), netip.AddrPortFrom(w.Address, healthPort)}
	if w.gateway() {
		need = append(need, m.gatewayAddr())
	} else {
		need = append(need, netip.AddrPortFrom(w.Address, m.proxyPort))
	}
	for _, p := range w.Ports {
		need = append(need, netip.AddrPortFrom(w.Address, p.Number), p.Private)
	}
	for _, a := range need {
		if err := checkFree(a); err != nil {
			return err
		}
	}
	return nil
}

// startApp starts the application; the channel closes when it is ready.
func (m *machine) startApp(ctx context.Context, w workload, wg *sync.WaitGroup, settled func(runs bool)) (<-chan struct{}, error) {
	program, err := m.program(w.Command[0], w.Dir)
	if err != nil {
		return nil, err
	}
	log, err := openLog(filepath.Join(m.logs, w.display()+".log"))
	if err != nil {
		return nil, err
	}
	at, path, patience := w.ready()
	try := connects(at.String())
	if path != "" {
		try = answers("http://" + at.String() + path)
	}
	p := process{
		Name: w.display(), Argv: append([]string{program}, w.Command[1:]...), Dir: w.Dir,
		Env: w.appEnv(os.Environ(), m.proxyPort), Log: log, Grace: m.grace,
		Ready: func(ctx context.Context) error { return await(ctx, patience, try) },
	}
	if !at.IsValid() {
		p.Ready = nil // it takes no connections: running is all there is to ask
	}
	return m.supervise(ctx, p, log, wg, settled), nil
}

// startProxy writes the bootstrap and starts the sidecar or gateway.
func (m *machine) startProxy(ctx context.Context, w workload, wg *sync.WaitGroup, ready func(), settled func(runs bool)) error {
	token, err := m.token(ctx, w)
	if err != nil {
		return err
	}
	config, err := m.writeBootstrap(w)
	if err != nil {
		return err
	}
	log, err := openLog(filepath.Join(m.logs, w.display()+".proxy.log"))
	if err != nil {
		return err
	}
	p := process{
		Name: w.display() + " proxy", Argv: m.proxyCommand(config, w), Dir: m.state,
		Env: withoutProxies(os.Environ()), Files: []*os.File{token.f}, Log: log, Grace: m.grace,
		Ready: func(ctx context.Context) error {
			return await(ctx, 30*time.Second, answers(fmt.Sprintf("http://%s/ready", netip.AddrPortFrom(w.Address, adminPort))))
		},
	}
	isReady := m.supervise(ctx, p, log, wg, settled)
	wg.Go(func() {
		defer token.f.Close()
		defer os.Remove(config)
		select {
		case <-isReady:
			ready()
		case <-ctx.Done():
			return
		}
		m.renewToken(ctx, w, token)
	})
	return nil
}

// supervise runs p until ctx ends, reporting what goes wrong. The channel
// closes when p was ready for the first time.
func (m *machine) supervise(ctx context.Context, p process, log *logFile, wg *sync.WaitGroup, settled func(runs bool)) <-chan struct{} {
	ready := make(chan struct{})
	var once sync.Once
	down := false
	var mu sync.Mutex
	notify := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		switch e.Kind {
		case eventReady:
			if down {
				m.progress.ready(p.Name, "again", e.Took)
				down = false
			}
			once.Do(func() { close(ready) })
		case eventCrashed:
			down = true
			m.progress.wrong(p.Name, fmt.Sprintf("%v, starting again in %s; log: %s", e.Err, e.Retry, log.path), log.lastLines(5))
			settled(false)
		case eventNotReady:
			m.progress.wrong(p.Name, fmt.Sprintf("%v; log: %s", e.Err, log.path), log.lastLines(5))
			settled(false)
		}
	}
	wg.Go(func() {
		m.starter.run(ctx, p, notify)
		log.Close()
	})
	return ready
}

// program finds a command: a path as it is, a name beside our own binaries,
// then in PATH.
func (m *machine) program(name, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	if p := filepath.Join(m.opts.Bin, name); isProgram(p) {
		return p, nil
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("spec.command: %q is neither in %s nor in PATH", name, m.opts.Bin)
	}
	return p, nil
}

func isProgram(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}
