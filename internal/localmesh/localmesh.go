// SPDX-License-Identifier: Apache-2.0

// Package localmesh runs a whole mesh on one machine without root or
// Kubernetes: the control plane, and for each LocalWorkload its application
// and its sidecar, as processes that start, restart and end with it.
package localmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

// Options of one local mesh.
type Options struct {
	// Dir holds the configuration; what the control plane must keep goes to
	// Dir/.lateen. Temporary says that Dir is made for this run and goes with it.
	Dir       string
	Temporary bool
	// Objects yields the configuration of Dir and its changes, as a
	// config.Store's Watch does.
	Objects func(context.Context) <-chan config.Batch
	// Name is how the command line finds the mesh: see nameRE.
	Name string
	// Bin is the directory with lateend and lateen-proxy.
	Bin string
	// Version is ours, shown by the proxies.
	Version string
	// GatewayPort is what the ingress gateway opens on 127.0.0.1 for its port 8080.
	GatewayPort uint16
	// Page is the path below the gateway that the user is sent to and that
	// Traffic requests per second ask for.
	Page    string
	Traffic int
	// Welcome is printed, after the URL, when everything is ready.
	Welcome string
	// Out takes the URL, Progress the rest.
	Out, Progress io.Writer
	Color         bool
}

// planeAddrs are where the control plane listens.
type planeAddrs struct{ xds, plain, debug netip.AddrPort }

// istiodAddrs are Istio's ports on 127.0.0.1. They are fixed because one
// machine has room for one mesh on 127.0.1.0/24 anyway.
func istiodAddrs() planeAddrs {
	at := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	return planeAddrs{xds: at(15012), plain: at(15010), debug: at(15014)}
}

// TempPrefix begins the name of every temporary directory of a mesh; by it a
// directory left behind by a killed mesh is known and removed.
const TempPrefix = "lateen-"

const (
	defaultProxyPort = 15007
	tokenLifetime    = 24 * time.Hour
)

// machine is one running mesh.
type machine struct {
	opts      Options
	progress  *progress
	starter   *starter
	client    *api.Client
	state     string // Dir/.lateen
	logs      string
	socket    string
	rootFile  string
	proxyPort uint16
	plane     planeAddrs
	ending    atomic.Bool // all of it ends, not one workload
}

// Run runs the mesh until ctx ends, then stops everything and removes what is
// not the user's. It fails when the mesh cannot start at all; what goes wrong
// with one workload is reported and the rest goes on.
func Run(ctx context.Context, o Options) error { return run(ctx, o, istiodAddrs()) }

func run(ctx context.Context, o Options, plane planeAddrs) error {
	m := &machine{
		opts: o, plane: plane, progress: &progress{w: o.Progress, color: o.Color}, proxyPort: defaultProxyPort,
		state: filepath.Join(o.Dir, ".lateen"),
	}
	m.logs = filepath.Join(m.state, "logs")
	for _, b := range []string{"lateend", "lateen-proxy"} {
		if !isProgram(filepath.Join(o.Bin, b)) {
			return fmt.Errorf("%s is not in %s: build it with `make build`", b, o.Bin)
		}
	}
	runtimeDir, err := RuntimeDir()
	if err != nil {
		return err
	}
	defer os.Remove(runtimeDir) // the last mesh leaves it empty
	m.socket = filepath.Join(runtimeDir, o.Name+".sock")
	const maxSocketPath = 107 // unix(7)
	if len(m.socket) > maxSocketPath {
		return fmt.Errorf("socket path %s is longer than %d bytes: choose a shorter --name or XDG_RUNTIME_DIR", m.socket, maxSocketPath)
	}
	batches := o.Objects(ctx)
	objects := collect{}
	select {
	case b, ok := <-batches:
		if !ok {
			return fmt.Errorf("%s cannot be watched", o.Dir)
		}
		objects.add(b)
	case <-ctx.Done():
		return nil
	}
	wanted, problems := workloadsOf(objects.list())
	remove, err := register(runtimeDir, m.registration())
	if err != nil {
		return err
	}
	defer remove()
	for _, a := range m.needed(wanted) {
		if err := checkFree(a); err != nil {
			return err
		}
	}
	for _, d := range []string{m.state, m.logs} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make a place for the mesh: %w", err)
		}
	}
	m.starter = newStarter()
	defer m.starter.close()
	return m.follow(ctx, wanted, problems, objects, batches)
}

func (m *machine) registration() Registration {
	return Registration{
		Name: m.opts.Name, Socket: m.socket, Dir: m.opts.Dir, Temporary: m.opts.Temporary,
		Gateway: "http://" + m.gatewayAddr().String(), Started: time.Now().UTC(),
	}
}

// needed are the addresses without which the mesh as a whole cannot start.
func (m *machine) needed(wanted []workload) []netip.AddrPort {
	out := []netip.AddrPort{m.plane.xds, m.plane.plain, m.plane.debug}
	for _, w := range wanted {
		if w.gateway() {
			return append(out, m.gatewayAddr())
		}
	}
	return out
}

func (m *machine) gatewayAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), m.opts.GatewayPort)
}

// follow starts the control plane, then follows the objects until ctx ends.
func (m *machine) follow(ctx context.Context, wanted []workload, problems []problem, objects collect, batches <-chan config.Batch) error {
	began := time.Now()
	var plane sync.WaitGroup
	planeCtx, stopPlane := context.WithCancel(context.WithoutCancel(ctx))
	defer plane.Wait()
	defer stopPlane()
	m.client = api.NewClient(m.socket)
	defer m.client.Close()
	if err := m.startPlane(ctx, planeCtx, &plane); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	m.progress.ready("control plane", "", time.Since(began))

	var first sync.WaitGroup
	first.Add(len(wanted))
	var firstDone sync.Map
	var failed atomic.Int32
	settled := func(w workload, runs bool) {
		if _, loaded := firstDone.LoadOrStore(w.key(), true); !loaded {
			if !runs {
				failed.Add(1)
			}
			first.Done()
		}
	}
	work := &runner{m: m, running: map[string]*unit{}}
	work.apply(ctx, wanted, settled)
	told := map[problem]bool{}
	m.tell(problems, told)

	var background sync.WaitGroup
	background.Go(func() {
		first.Wait()
		if ctx.Err() == nil {
			m.welcome(ctx, began, int(failed.Load()))
		}
	})
	// Objects that belong together come one by one: what is wrong is told when
	// no more have come for a moment.
	still := time.NewTimer(0)
	defer still.Stop()
	for open := true; open; {
		var b config.Batch
		select {
		case b, open = <-batches:
			objects.add(b)
			wanted, problems = workloadsOf(objects.list())
			work.apply(ctx, wanted, func(workload, bool) {})
			still.Reset(time.Second)
		case <-still.C:
			m.tell(problems, told)
		}
	}
	m.progress.line("\nStopping.")
	work.wait()
	background.Wait()
	return nil
}

// tell reports objects that cannot be run, each thing once until it is gone.
func (m *machine) tell(problems []problem, told map[problem]bool) {
	now := map[problem]bool{}
	for _, p := range problems {
		now[p] = true
		if !told[p] {
			m.progress.wrong(p.Object, p.Message, nil)
		}
	}
	clear(told)
	maps.Copy(told, now)
}

// startPlane starts lateend and waits until it answers on its socket.
func (m *machine) startPlane(ctx, planeCtx context.Context, wg *sync.WaitGroup) error {
	log, err := openLog(filepath.Join(m.logs, "lateend.log"))
	if err != nil {
		return err
	}
	p := process{
		Name: "control plane", Argv: m.planeCommand(), Dir: m.opts.Dir,
		Env: withoutProxies(os.Environ()), Log: log, Grace: func() time.Duration { return 5 * time.Second },
		Ready: func(ctx context.Context) error { return await(ctx, 30*time.Second, m.planeAnswers) },
	}
	failed := make(chan struct{})
	var once sync.Once
	ready := m.supervise(planeCtx, p, log, wg, func(bool) { once.Do(func() { close(failed) }) })
	select {
	case <-ready:
		v, err := m.client.Version(ctx)
		if err != nil {
			return err
		}
		m.rootFile = v.RootFile
		return nil
	case <-failed:
		return errors.New("the control plane does not start")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *machine) planeAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := m.client.Version(ctx)
	return err
}

// token asks the control plane for a workload's token.
func (m *machine) token(ctx context.Context, w workload) (*tokenFile, error) {
	t, err := m.client.Token(ctx, m.tokenRequest(w))
	if err != nil {
		return nil, fmt.Errorf("token of %s: %w", w.display(), err)
	}
	return newTokenFile(t.Token)
}

func (m *machine) tokenRequest(w workload) api.TokenRequest {
	return api.TokenRequest{Namespace: w.Namespace, ServiceAccount: w.ServiceAccount, Lifetime: tokenLifetime}
}

// renewToken replaces the token at half its life until ctx ends, for a proxy
// whose certificate ran out while it could not renew it.
func (m *machine) renewToken(ctx context.Context, w workload, file *tokenFile) {
	wait := tokenLifetime / 2
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = tokenLifetime / 2
		t, err := m.client.Token(ctx, m.tokenRequest(w))
		if err == nil {
			err = file.set(t.Token)
		}
		if err != nil {
			if ctx.Err() == nil {
				m.progress.wrong(w.display(), "its token cannot be renewed: "+err.Error(), nil)
			}
			wait = time.Minute
		}
	}
}

func (m *machine) writeBootstrap(w workload) (string, error) {
	b, err := renderBootstrap(bootstrapInput{
		Workload: w, ControlPlane: m.plane.xds, RootFile: m.rootFile,
		MeshName: m.opts.Name, TrustDomain: "cluster.local", Version: m.opts.Version, GatewayPort: m.opts.GatewayPort,
	})
	if err != nil {
		return "", fmt.Errorf("bootstrap of %s: %w", w.display(), err)
	}
	path := filepath.Join(m.state, w.Namespace+"."+w.Name+".bootstrap.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return "", fmt.Errorf("bootstrap of %s: %w", w.display(), err)
	}
	return path, nil
}

// welcome prints the URL once it works, and keeps the traffic going.
func (m *machine) welcome(ctx context.Context, began time.Time, failed int) {
	if failed > 0 {
		m.progress.line("\nOf the workloads %d did not start: see above.", failed)
	}
	page := (&url.URL{Scheme: "http", Host: m.gatewayAddr().String(), Path: m.opts.Page}).String()
	if m.opts.Page == "" {
		m.progress.line("\nStarted in %.1fs.\n%s", time.Since(began).Seconds(), m.opts.Welcome)
		return
	}
	if err := await(ctx, 30*time.Second, answers(page)); err != nil {
		if ctx.Err() == nil {
			m.progress.wrong(page, err.Error(), nil)
		}
		return
	}
	m.progress.line("\nReady after %.1fs. Open", time.Since(began).Seconds())
	fmt.Fprintf(m.opts.Out, "  %s\n", page)
	m.progress.line("%s", m.opts.Welcome)
	if m.opts.Traffic <= 0 {
		return
	}
	t := &traffic{url: page, perSec: m.opts.Traffic}
	var wg sync.WaitGroup
	wg.Go(func() { t.run(ctx) })
	every := time.NewTicker(10 * time.Second)
	defer every.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-every.C:
			m.progress.line("  traffic: %s", t)
		}
	}
	wg.Wait()
	m.progress.line("  traffic: %s", t)
}

// collect is what the batches add up to.
type collect map[config.Key]*config.Object

func (c collect) add(b config.Batch) {
	if b.Initial {
		clear(c)
	}
	for _, e := range b.Events {
		if e.Object == nil {
			delete(c, e.Key)
		} else {
			c[e.Key] = e.Object
		}
	}
}

func (c collect) list() []*config.Object {
	out := make([]*config.Object, 0, len(c))
	for _, o := range c {
		out = append(out, o)
	}
	return out
}
