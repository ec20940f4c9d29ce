// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Prober is one probe or lifecycle handler of an application container, as the
// injector records it in ISTIO_KUBE_APP_PROBERS (Istio's form: the members of
// Kubernetes' Probe that can be rewritten).
type Prober struct {
	HTTPGet        *HTTPGet `json:"httpGet,omitempty"`
	TCPSocket      *TCP     `json:"tcpSocket,omitempty"`
	GRPC           *GRPC    `json:"grpc,omitempty"`
	TimeoutSeconds int      `json:"timeoutSeconds,omitempty"` // default 1, as Kubernetes
}

// HTTPGet is Kubernetes' HTTPGetAction with its port resolved.
type HTTPGet struct {
	Path        string   `json:"path,omitempty"`
	Port        Port     `json:"port"`
	Host        string   `json:"host,omitempty"`
	Scheme      string   `json:"scheme,omitempty"` // HTTP or HTTPS
	HTTPHeaders []Header `json:"httpHeaders,omitempty"`
}

// Header is one header of an HTTPGet.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TCP is Kubernetes' TCPSocketAction.
type TCP struct {
	Port Port   `json:"port"`
	Host string `json:"host,omitempty"`
}

// GRPC is Kubernetes' GRPCAction.
type GRPC struct {
	Port    Port    `json:"port"`
	Service *string `json:"service,omitempty"`
}

// Port is a port as a number, or as a string that holds one.
type Port uint16

// UnmarshalJSON implements json.Unmarshaler.
func (p *Port) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %s is not a number from 1 to 65535", b)
	}
	*p = Port(n)
	return nil
}

var proberPath = regexp.MustCompile(`^/app-(health/[^/]+/(livez|readyz|startupz)|lifecycle/[^/]+/(prestopz|poststartz))$`)

// ParseProbers reads ISTIO_KUBE_APP_PROBERS, a map from path on the status port
// to what the application was to be asked. Empty text has none.
func ParseProbers(text string) (map[string]Prober, error) {
	if text == "" {
		return nil, nil
	}
	var m map[string]Prober
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, err
	}
	for path, p := range m {
		if !proberPath.MatchString(path) {
			return nil, fmt.Errorf("path %q is neither /app-health/<container>/{livez,readyz,startupz} nor /app-lifecycle/<container>/{prestopz,poststartz}", path)
		}
		n := 0
		for _, set := range []bool{p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil} {
			if set {
				n++
			}
		}
		if n != 1 {
			return nil, fmt.Errorf("%s: want one of httpGet, tcpSocket and grpc", path)
		}
		if p.TimeoutSeconds < 0 {
			return nil, fmt.Errorf("%s: timeoutSeconds is negative", path)
		}
		if h := p.HTTPGet; h != nil && h.Scheme != "" && h.Scheme != "HTTP" && h.Scheme != "HTTPS" {
			return nil, fmt.Errorf("%s: scheme %q is neither HTTP nor HTTPS", path, h.Scheme)
		}
	}
	return m, nil
}

// Bounds of one probe. What the kubelet reads of a body is 10 KiB.
const (
	defaultProbeTimeout = time.Second
	maxProbeBody        = 10 << 10
	maxRedirects        = 10
)

// probers answer the kubelet for the application.
type probers struct {
	byPath map[string]Prober
	// host is where the application listens.
	host string
	// status is the port the kubelet was sent to instead.
	status string
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	client *http.Client
	log    *slog.Logger
}

// newProbers makes probes go to the pod's own address, where an application
// that does not listen on loopback is found too. They leave from 127.0.0.6 (::6),
// which capture lets pass: else they would come back to the proxy's inbound.
func newProbers(c *Config, log *slog.Logger) *probers {
	p := &probers{byPath: c.AppProbers, host: "127.0.0.1", log: log}
	_, p.status, _ = net.SplitHostPort(c.Status)
	d := &net.Dialer{}
	if len(c.IPs) > 0 && !c.IPs[0].IsLoopback() {
		p.host = c.IPs[0].String()
		d.LocalAddr = passthroughSource(c.IPs[0])
	}
	p.dial = d.DialContext
	p.client = &http.Client{
		Transport: &http.Transport{
			DialContext:       p.dial,
			DisableKeepAlives: true,                                  // a probe must see a connection of its own
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet does: a probe asks for life, not for identity
			// The kubelet asks for no compression and speaks HTTP/1.1 to plain text.
			DisableCompression: true, ForceAttemptHTTP2: true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: p.redirect,
	}
	return p
}

func passthroughSource(to netip.Addr) net.Addr {
	if to.Is4() {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 6)}
	}
	return &net.TCPAddr{IP: net.ParseIP("::6")}
}

// redirect follows within the application, as the kubelet does; a redirect
// elsewhere is a success that is not followed.
func (p *probers) redirect(r *http.Request, via []*http.Request) error {
	if r.URL.Hostname() != p.host {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	r.Host = via[0].Host
	return nil
}

func (p *probers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	probe, ok := p.byPath[r.URL.Path]
	if !ok {
		http.Error(w, "no application probe is registered at this path", http.StatusBadRequest)
		return
	}
	timeout := time.Duration(probe.TimeoutSeconds) * time.Second
	if timeout == 0 {
		timeout = defaultProbeTimeout
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var err error
	switch {
	case probe.HTTPGet != nil:
		err = p.get(ctx, w, r, probe.HTTPGet)
	case probe.TCPSocket != nil:
		err = p.connect(ctx, probe.TCPSocket)
	default:
		err = p.health(ctx, r, probe.GRPC)
	}
	if err != nil {
		p.log.Debug("application probe failed", "path", r.URL.Path, "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func address(host string, port Port) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// get asks the application and hands its answer on.
func (p *probers) get(ctx context.Context, w http.ResponseWriter, r *http.Request, h *HTTPGet) error {
	scheme := "http"
	if h.Scheme == "HTTPS" {
		scheme = "https"
	}
	path := h.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse(scheme + "://" + address(p.host, h.Port) + path)
	if err != nil {
		return fmt.Errorf("probe path: %w", err)
	}
	req := (&http.Request{Method: http.MethodGet, URL: u, Header: r.Header.Clone()}).WithContext(ctx)
	req.Header.Del("Connection")
	// The kubelet has put the probe's own Host and headers into its request; where
	// it has not, the port it was sent to is ours.
	req.Host = r.Host
	if host, port, err := net.SplitHostPort(r.Host); err == nil && port == p.status {
		req.Host = address(host, h.Port)
	}
	for _, f := range h.HTTPHeaders {
		if strings.EqualFold(f.Name, "Host") {
			req.Host = f.Value
			continue
		}
		if len(r.Header.Values(f.Name)) == 0 {
			req.Header.Add(f.Name, f.Value)
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return err
	}
	code := resp.StatusCode
	if code >= 300 && code < 400 {
		code = http.StatusOK // one that leads elsewhere counts as success, and must not be followed there
	}
	if t := resp.Header.Get("Content-Type"); t != "" {
		w.Header().Set("Content-Type", t)
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.Copy(w, bytes.NewReader(body))
	return nil
}

func (p *probers) connect(ctx context.Context, t *TCP) error {
	c, err := p.dial(ctx, "tcp", address(p.host, t.Port))
	if err != nil {
		return err
	}
	return c.Close()
}

// health asks grpc.health.v1.Health/Check.
func (p *probers) health(ctx context.Context, r *http.Request, g *GRPC) error {
	cc, err := grpc.NewClient("passthrough:///"+address(p.host, g.Port),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return p.dial(ctx, "tcp", a) }),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithUserAgent(r.UserAgent()),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return err
	}
	defer cc.Close()
	req := &healthpb.HealthCheckRequest{}
	if g.Service != nil {
		req.Service = *g.Service
	}
	resp, err := healthpb.NewHealthClient(cc).Check(ctx, req)
	if err != nil {
		if status.Code(err) == codes.Unimplemented {
			return errors.New("the server does not implement grpc.health.v1.Health")
		}
		return err
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service is %v", resp.GetStatus())
	}
	return nil
}
