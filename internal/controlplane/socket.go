// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/xds"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

const (
	maxRequest     = 4 << 20
	takeEffectTime = 10 * time.Second // from the store to the pipeline
	defaultWait    = 10 * time.Second
	maxWait        = 10 * time.Minute
	tokenLifetime  = 24 * time.Hour
)

// serveSocket serves the local interface on a Unix socket that only the user
// who runs the mesh can open.
func (p *plane) serveSocket(fail func(error)) error {
	path := p.opts.Socket
	if path == "" {
		return nil
	}
	if err := removeStale(path); err != nil {
		return err
	}
	old := syscall.Umask(0o177) // the socket must never be open to others, not even for a moment
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return fmt.Errorf("local socket: %w", err)
	}
	p.serveHTTP(l, p.socketHandler(), maxWait+time.Minute, fail)
	p.onClose(func() { _ = os.Remove(path) }) // closing the listener removed it already
	return nil
}

func (p *plane) serveHTTP(l net.Listener, h http.Handler, answer time.Duration, fail func(error)) {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: answer,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("%s: %w", l.Addr(), err))
		}
	})
	p.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			_ = s.Close() // the listener is closed, calls had their time
		}
		wg.Wait()
	})
}

func (p *plane) socketHandler() http.Handler {
	mux := p.readHandler()
	handle(mux, "PUT "+api.PathObjects, p.apply)
	handle(mux, "DELETE "+api.PathObjects, p.delete)
	handle(mux, "POST "+api.PathToken, p.token)
	return mux
}

// readHandler is the part of the interface that changes nothing.
func (p *plane) readHandler() *http.ServeMux {
	mux := http.NewServeMux()
	handle(mux, "GET "+api.PathVersion, p.version)
	handle(mux, "GET "+api.PathObjects, p.list)
	handle(mux, "GET "+api.PathProxies, p.proxies)
	handle(mux, "POST "+api.PathWait, p.wait)
	handle(mux, "GET "+api.PathFindings, p.findings)
	return mux
}

var statusOf = map[string]int{
	"invalid": http.StatusBadRequest, "unknown_kind": http.StatusBadRequest, "not_found": http.StatusNotFound,
	"conflict": http.StatusConflict, "timeout": http.StatusGatewayTimeout,
}

// handle answers with what f returns, or with its error.
func handle[T any](mux *http.ServeMux, pattern string, f func(*http.Request) (T, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		var answer any
		out, err := f(r)
		code := http.StatusOK
		if answer = out; err != nil {
			e := toError(err)
			code, answer = cmp.Or(statusOf[e.Code], http.StatusInternalServerError), e
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer) // a client that left needs no answer
	})
}

func toError(err error) *api.Error {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e
	}
	code := "internal"
	switch {
	case errors.Is(err, config.ErrNotFound):
		code = "not_found"
	case errors.Is(err, config.ErrConflict):
		code = "conflict"
	case errors.Is(err, config.ErrInvalid):
		code = "invalid"
	case errors.Is(err, context.DeadlineExceeded):
		code = "timeout"
	}
	return &api.Error{Code: code, Message: err.Error()}
}

func decode[T any](r *http.Request) (T, error) {
	var in T
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return in, &api.Error{Code: "invalid", Message: "body of the request: " + err.Error()}
	}
	return in, nil
}

func (p *plane) version(*http.Request) (*api.Version, error) {
	return &api.Version{
		Version: p.opts.Version, GoVersion: runtime.Version(), Name: p.opts.Name, Started: p.started,
		ConfigDir: p.opts.ConfigDir, Addresses: p.addresses, RootFile: p.rootFile(),
	}, nil
}

func kindOf(word string) (*config.Kind, error) {
	k, near := config.FindKind(word)
	if k == nil {
		msg := fmt.Sprintf("there is no kind %q", word)
		if near != "" {
			msg += fmt.Sprintf("; did you mean %q?", near)
		}
		return nil, &api.Error{Code: "unknown_kind", Message: msg}
	}
	return k, nil
}

func (p *plane) list(r *http.Request) (*api.ObjectList, error) {
	q := r.URL.Query()
	var kind *config.Kind
	if word := q.Get("kind"); word != "" {
		var err error
		if kind, err = kindOf(word); err != nil {
			return nil, err
		}
	}
	objects, err := p.store.List(r.Context(), kind, q.Get("namespace"))
	if err != nil {
		return nil, err
	}
	held := map[config.Key]string{}
	for _, h := range p.publisher.held() {
		held[h.Key] = h.Reason
	}
	out := &api.ObjectList{Items: []api.Object{}}
	for _, o := range objects {
		if name := q.Get("name"); name != "" && name != o.Name {
			continue
		}
		manifest, err := o.JSON()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
		out.Items = append(out.Items, api.Object{
			Group: o.Kind.Group, Kind: o.Kind.Name, Namespace: o.Namespace, Name: o.Name,
			Manifest: manifest, Source: o.Source.String(), Held: held[o.Key],
		})
	}
	return out, nil
}

func (p *plane) apply(r *http.Request) (*api.ApplyResponse, error) {
	in, err := decode[api.ApplyRequest](r)
	if err != nil {
		return nil, err
	}
	res := config.Decode(in.Manifest, "", config.DefaultNamespace)
	if err := config.Errors(res.Problems); err != nil {
		return nil, &api.Error{Code: "invalid", Message: err.Error()}
	}
	if len(res.Objects) != 1 {
		return nil, &api.Error{Code: "invalid", Message: fmt.Sprintf("the request holds %d objects; want one of a kind that is handled", len(res.Objects))}
	}
	done, err := p.store.Apply(r.Context(), res.Objects[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), takeEffectTime)
	defer cancel()
	epoch, err := p.publisher.await(ctx, done.Object.Key, done.Object.ResourceVersion)
	if err != nil {
		return nil, fmt.Errorf("%s is stored, but did not come into force: %w", done.Object.Key, err)
	}
	out := &api.ApplyResponse{Result: string(done.Outcome), Epoch: epoch}
	for _, n := range done.Notes {
		out.Warnings = append(out.Warnings, n.Error())
	}
	for _, h := range p.publisher.held() {
		if h.Key == done.Object.Key {
			out.Warnings = append(out.Warnings, "held back: "+h.Reason)
		}
	}
	for _, h := range p.publisher.dangling() {
		if h.Key == done.Object.Key {
			out.Warnings = append(out.Warnings, h.Reason)
		}
	}
	return out, nil
}

func (p *plane) delete(r *http.Request) (*api.ApplyResponse, error) {
	q := r.URL.Query()
	kind, err := kindOf(q.Get("kind"))
	if err != nil {
		return nil, err
	}
	key := config.Key{Kind: kind, Namespace: cmp.Or(q.Get("namespace"), config.DefaultNamespace), Name: q.Get("name")}
	if err := p.store.Delete(r.Context(), key, ""); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), takeEffectTime)
	defer cancel()
	epoch, err := p.publisher.await(ctx, key, "")
	if err != nil {
		return nil, fmt.Errorf("%s is deleted, but is still in force: %w", key, err)
	}
	return &api.ApplyResponse{Result: "deleted", Epoch: epoch}, nil
}

func (p *plane) wait(r *http.Request) (*api.WaitResponse, error) {
	in, err := decode[api.WaitRequest](r)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), min(cmp.Or(in.Timeout, defaultWait), maxWait))
	defer cancel()
	epoch := cmp.Or(in.Epoch, p.publisher.current())
	if in.Object != nil {
		kind, err := kindOf(in.Object.Kind)
		if err != nil {
			return nil, err
		}
		key := config.Key{Kind: kind, Namespace: in.Object.Namespace, Name: in.Object.Name}
		if epoch, err = p.publisher.await(ctx, key, in.Object.ResourceVersion); err != nil {
			return nil, fmt.Errorf("%s has not come to the control plane as it was stored: %w", key, err)
		}
	}
	progress, err := p.ads.Await(ctx, epoch)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	out := &api.WaitResponse{Elapsed: time.Since(began)}
	for _, c := range progress.Waiting {
		out.Waiting = append(out.Waiting, api.WaitingProxy{Proxy: c.Proxy, Reason: "no answer yet"})
	}
	for _, c := range progress.Rejected {
		out.Waiting = append(out.Waiting, api.WaitingProxy{Proxy: c.Proxy, Reason: rejection(c)})
	}
	return out, nil
}

func rejection(c ads.ClientStatus) string {
	var all []string
	for _, t := range c.Types {
		if t.Nack != nil {
			all = append(all, t.Nack.Message)
		}
	}
	return "refused: " + strings.Join(all, "; ")
}

// shortTypes are the resource types by Istio's abbreviations.
var shortTypes = map[string]string{
	xds.ClusterType: "CDS", xds.EndpointType: "EDS", xds.ListenerType: "LDS", xds.RouteType: "RDS",
	xds.VirtualHostType: "VHDS", xds.SecretType: "SDS",
}

func (p *plane) proxies(*http.Request) (*api.ProxyList, error) {
	out := &api.ProxyList{Items: []api.Proxy{}}
	for _, c := range p.ads.Status() {
		x := api.Proxy{
			NodeID: c.Node, Name: c.Proxy, ClusterID: c.ClusterID, Version: c.Version, Identity: c.Identity, Types: map[string]api.Sync{},
		}
		if parts := strings.Split(c.Node, "~"); len(parts) == 4 {
			x.Type, x.Address = parts[0], parts[1]
		}
		_, x.Namespace, _ = strings.Cut(c.Proxy, ".")
		for _, t := range c.Types {
			s := api.Sync{Status: t.State, Version: t.Version, Since: t.Sent}
			if t.Nack != nil {
				s.Message, s.Since = t.Nack.Message, t.Nack.Time
			}
			x.Types[cmp.Or(shortTypes[t.TypeURL], t.TypeURL)] = s
		}
		out.Items = append(out.Items, x)
	}
	slices.SortFunc(out.Items, func(a, b api.Proxy) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.NodeID, b.NodeID)) })
	return out, nil
}

func (p *plane) token(r *http.Request) (*api.TokenResponse, error) {
	in, err := decode[api.TokenRequest](r)
	if err != nil {
		return nil, err
	}
	if p.tokens == nil {
		return nil, &api.Error{Code: "invalid", Message: "this control plane has no authority"}
	}
	t, err := p.tokens.Issue(in.Namespace, in.ServiceAccount, cmp.Or(in.Lifetime, tokenLifetime))
	if err != nil {
		return nil, &api.Error{Code: "invalid", Message: err.Error()}
	}
	return &api.TokenResponse{Token: t}, nil
}
