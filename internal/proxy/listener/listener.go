// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// Envoy's defaults for a listener (listener.proto).
const (
	defaultFiltersTimeout = 15 * time.Second
	// defaultTLSTimeout bounds a handshake where the chain sets no
	// transport_socket_connect_timeout; Istio sends 15 s.
	defaultTLSTimeout = 15 * time.Second
)

// listener is one compiled listener. It is immutable but for its sockets.
type listener struct {
	name    string
	hash    [sha256.Size]byte
	specs   []socketSpec // none with bind_to_port: false
	address netip.AddrPort
	// addresses are address and the additional ones, for the hand-off.
	addresses []netip.AddrPort
	// bound says that the listener has sockets of its own.
	bound bool

	originalDst bool // restore SO_ORIGINAL_DST
	handOff     bool // and give the connection to the listener of that address
	transparent bool // TPROXY brings connections with the destination they had
	tls, http   *inspector
	timeout     time.Duration // of the inspectors, 0: none
	goOn        bool          // a timed-out inspection goes on without its result
	keepalive   *corev3.TcpKeepalive

	matcher  *matcher
	chains   []*chain
	fallback *chain // default_filter_chain, nil for none
	stats    *telemetry.ListenerStats
	statName string
}

// inspector says on which destination ports a listener filter looks.
type inspector struct {
	disabled *listenerv3.ListenerFilterChainMatchPredicate
}

// on says whether the inspector exists and looks at connections to that port.
func (i *inspector) on(port uint16) bool {
	return i != nil && (i.disabled == nil || !disabledFor(i.disabled, port))
}

func disabledFor(p *listenerv3.ListenerFilterChainMatchPredicate, port uint16) bool {
	switch r := p.GetRule().(type) {
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		for _, s := range r.OrMatch.GetRules() {
			if disabledFor(s, port) {
				return true
			}
		}
		return false
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		for _, s := range r.AndMatch.GetRules() {
			if !disabledFor(s, port) {
				return false
			}
		}
		return true
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		return !disabledFor(r.NotMatch, port)
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		return r.AnyMatch
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		return int32(port) >= r.DestinationPortRange.GetStart() && int32(port) < r.DestinationPortRange.GetEnd()
	}
	return false
}

func messageHash(parts ...proto.Message) ([sha256.Size]byte, error) {
	h := sha256.New()
	for _, m := range parts {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return [sha256.Size]byte{}, err
		}
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// compile builds a listener from its message. Chains equal to one of old's are
// taken over with their connections.
func (m *Manager) compile(msg *listenerv3.Listener, old *listener) (*listener, error) {
	l := &listener{name: msg.GetName(), timeout: defaultFiltersTimeout, goOn: msg.GetContinueOnListenerFiltersTimeout(), keepalive: msg.GetTcpKeepalive()}
	var err error
	if l.hash, err = messageHash(msg); err != nil {
		return nil, err
	}
	if err := l.sockets(msg); err != nil {
		return nil, err
	}
	if d := msg.GetListenerFiltersTimeout(); d != nil {
		l.timeout = d.AsDuration()
	}
	if err := l.filters(msg); err != nil {
		return nil, err
	}
	l.statName = msg.GetStatPrefix()
	if l.statName == "" && len(l.specs) > 0 {
		l.statName = l.specs[0].address
	}
	l.stats = m.opts.Registry.Listener(cmp.Or(l.statName, l.name))
	return l, m.compileChains(l, msg, old)
}

func (l *listener) sockets(msg *listenerv3.Listener) error {
	bind := msg.GetBindToPort() == nil || msg.GetBindToPort().GetValue()
	l.transparent = msg.GetTransparent().GetValue()
	addresses := []*corev3.Address{msg.GetAddress()}
	for _, a := range msg.GetAdditionalAddresses() {
		addresses = append(addresses, a.GetAddress())
	}
	for i, a := range addresses {
		network, address, err := bootstrap.ListenAddress(a)
		if err != nil {
			return fmt.Errorf("address: %w", err)
		}
		spec := socketSpec{
			network: network, address: address, freebind: msg.GetFreebind().GetValue(), transparent: l.transparent,
			ipv4Compat: a.GetSocketAddress().GetIpv4Compat(),
			reuse:      msg.GetEnableReusePort().GetValue(), backlog: int(msg.GetTcpBacklogSize().GetValue()),
			mode: os.FileMode(a.GetPipe().GetMode()).Perm(),
		}
		if network == "tcp" {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("address: %q is not an IP address and port", address)
			}
			if i == 0 {
				l.address = ap
			}
			l.addresses = append(l.addresses, ap)
		}
		if bind {
			l.specs = append(l.specs, spec)
		}
	}
	l.bound = bind
	return nil
}

// The listener filters that are built in, by the type of their configuration.
const (
	originalDstType   = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
	tlsInspectorType  = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
	httpInspectorType = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
)

func typeName(a *anypb.Any) string {
	return a.GetTypeUrl()[strings.LastIndexByte(a.GetTypeUrl(), '/')+1:]
}

func (l *listener) filters(msg *listenerv3.Listener) error {
	for i, f := range msg.GetListenerFilters() {
		in := &inspector{disabled: f.GetFilterDisabled()}
		switch t := typeName(f.GetTypedConfig()); t {
		case originalDstType:
			l.originalDst = true
		case tlsInspectorType:
			l.tls = in
		case httpInspectorType:
			l.http = in
		default:
			return fmt.Errorf("listener_filters[%d]: type %q is not supported", i, t)
		}
	}
	if msg.GetUseOriginalDst().GetValue() {
		l.originalDst, l.handOff = true, true
	}
	if l.tls == nil && needsTLSInspector(msg) {
		l.tls = &inspector{} // as Envoy does when the list forgets it
	}
	return nil
}

// needsTLSInspector says whether a match asks for what only the ClientHello
// tells.
func needsTLSInspector(msg *listenerv3.Listener) bool {
	for _, fc := range msg.GetFilterChains() {
		m := fc.GetFilterChainMatch()
		if len(m.GetServerNames()) > 0 || m.GetTransportProtocol() == "tls" {
			return true
		}
	}
	return false
}

func (m *Manager) compileChains(l *listener, msg *listenerv3.Listener, old *listener) error {
	msgs := msg.GetFilterChains()
	if len(msgs) == 0 && msg.GetDefaultFilterChain() == nil {
		return errors.New("filter_chains: the list is empty and there is no default_filter_chain")
	}
	made := make([]*chain, 0, len(msgs)+1)
	build := func(fc *listenerv3.FilterChain) (*chain, error) {
		c, fresh, err := m.chainFor(msg, fc, old)
		if fresh {
			made = append(made, c)
		}
		return c, err
	}
	err := func() error {
		for i, fc := range msgs {
			c, err := build(fc)
			if err != nil {
				return fmt.Errorf("filter_chains[%d] (%q): %w", i, fc.GetName(), err)
			}
			l.chains = append(l.chains, c)
		}
		if fc := msg.GetDefaultFilterChain(); fc != nil {
			c, err := build(fc)
			if err != nil {
				return fmt.Errorf("default_filter_chain: %w", err)
			}
			l.fallback = c
		}
		var err error
		l.matcher, err = newMatcher(l.chains, msgs)
		return err
	}()
	if err != nil {
		for _, c := range made {
			c.close()
		}
	}
	return err
}

// all are the listener's chains, the default one included.
func (l *listener) all() []*chain {
	if l.fallback == nil {
		return l.chains
	}
	return append(l.chains[:len(l.chains):len(l.chains)], l.fallback)
}
