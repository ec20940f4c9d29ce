// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// raw is JSON that goes out as it is.
func raw(b []byte) object {
	var o object
	_ = json.Unmarshal(b, &o)
	return o
}

// resolver finds the types of extensions. Those that are accepted without
// effect have no descriptor here; they print as their type alone.
type resolver struct{}

func (resolver) FindMessageByName(n protoreflect.FullName) (protoreflect.MessageType, error) {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(n); err == nil {
		return t, nil
	}
	return (&listenerv3.Listener_InternalListenerConfig{}).ProtoReflect().Type(), nil // a message without fields
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (resolver) FindExtensionByName(n protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByName(n)
}

func (resolver) FindExtensionByNumber(m protoreflect.FullName, n protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return protoregistry.GlobalTypes.FindExtensionByNumber(m, n)
}

// secretFields are what never leaves the process, by message.
var secretFields = map[protoreflect.FullName][]protoreflect.Name{
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate":       {"private_key", "password", "pkcs12"},
	"envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys": {"keys"},
	"envoy.extensions.transport_sockets.tls.v3.GenericSecret":        {"secret", "secrets"},
	"envoy.config.core.v3.GrpcService":                               {"initial_metadata"},
}

// redact clears what is secret in m and in the messages inside its Any fields.
func redact(m protoreflect.Message) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := anypb.UnmarshalNew(a, proto.UnmarshalOptions{Resolver: resolver{}})
		if err != nil {
			a.Reset()
			return
		}
		redact(inner.ProtoReflect())
		if b, err := proto.Marshal(inner); err == nil {
			a.Value = b
		}
		return
	}
	for _, n := range secretFields[m.Descriptor().FullName()] {
		if f := m.Descriptor().Fields().ByName(n); f != nil {
			m.Clear(f)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { redact(v.Message()); return true })
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		default:
			redact(v.Message())
		}
		return true
	})
}

// typed renders a message as the JSON of an Any that holds it.
func typed(m proto.Message) json.RawMessage {
	m = proto.Clone(m)
	redact(m.ProtoReflect())
	a, err := anypb.New(m)
	if err != nil {
		return json.RawMessage("null")
	}
	return marshal(a)
}

func marshal(m proto.Message) json.RawMessage {
	b, err := protojson.MarshalOptions{UseProtoNames: true, Resolver: resolver{}}.Marshal(m)
	if err != nil {
		b, _ = json.Marshal(object{"error": err.Error()})
	}
	return b
}

func decode[M proto.Message](body []byte, m M) M {
	_ = proto.Unmarshal(body, m) // accepted once already
	return m
}

// dumpType is the type URL of a part of the dump.
func dumpType(name string) string { return "type.googleapis.com/envoy.admin.v3." + name }

// configDump has the parts and the order of envoy.admin.v3.ConfigDump.
func (p *Proxy) configDump(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	parts := []object{p.bootstrapDump(), p.clustersDump()}
	if q.Has("include_eds") {
		parts = append(parts, p.endpointsDump())
	}
	parts = append(parts, p.listenersDump(),
		object{"@type": dumpType("ScopedRoutesConfigDump")},
		p.routesDump(), p.secretsDump(),
		object{"@type": dumpType("EcdsConfigDump")})
	if want := q.Get("resource"); want != "" {
		p.oneResource(w, parts, want)
		return
	}
	writeJSON(w, object{"configs": parts})
}

// oneResource answers ?resource=dynamic_listeners: the repeated field alone.
func (p *Proxy) oneResource(w http.ResponseWriter, parts []object, field string) {
	for _, part := range parts {
		if list, ok := part[field].([]object); ok {
			for _, o := range list {
				o["@type"] = part["@type"]
			}
			writeJSON(w, object{"configs": list})
			return
		}
	}
	http.Error(w, field+" not found in config dump", http.StatusNotFound)
}

func (p *Proxy) endpointDump(w http.ResponseWriter, _ *http.Request) { writeJSON(w, p.endpointsDump()) }

func (p *Proxy) bootstrapDump() object {
	m := proto.Clone(p.Bootstrap)
	redact(m.ProtoReflect())
	return object{"@type": dumpType("BootstrapConfigDump"), "bootstrap": marshal(m), "last_updated": stamp(p.Started)}
}

func (p *Proxy) entries(t xdsclient.Type) []xdsclient.Entry {
	if p.Cache == nil {
		return nil
	}
	return p.Cache.Entries(t)
}

func (p *Proxy) version(t xdsclient.Type) string {
	if p.Cache == nil {
		return ""
	}
	return p.Cache.Version(t)
}

// dynamic renders entries of one type under the given key; warming names go to
// the second list.
func dynamic(entries []xdsclient.Entry, key string, message func([]byte) proto.Message) []object {
	out := []object{}
	for _, e := range entries {
		o := object{}
		if e.Body != nil {
			o["version_info"], o["last_updated"] = e.Version, stamp(e.Updated)
			o[key] = typed(message(e.Body))
			o["client_status"] = "ACKED"
		}
		if e.Rejected != "" {
			o["error_state"] = errorState(e)
			o["client_status"] = "NACKED"
		}
		out = append(out, o)
	}
	return out
}

func errorState(e xdsclient.Entry) object {
	return object{"details": e.Rejected, "version_info": e.RejectedVersion, "last_update_attempt": stamp(e.RejectedAt)}
}

func (p *Proxy) clustersDump() object {
	static := []object{}
	for _, c := range p.Bootstrap.GetStaticResources().GetClusters() {
		static = append(static, object{"cluster": typed(c), "last_updated": stamp(p.Started)})
	}
	warming := map[string]bool{}
	for _, n := range p.Clusters.Warming() {
		warming[n] = true
	}
	var active, warm []xdsclient.Entry
	for _, e := range p.entries(xdsclient.Clusters) {
		if warming[e.Name] && p.Clusters.Get(e.Name) == nil {
			warm = append(warm, e)
		} else {
			active = append(active, e)
		}
	}
	body := func(b []byte) proto.Message { return decode(b, newCluster()) }
	return object{
		"@type": dumpType("ClustersConfigDump"), "version_info": p.version(xdsclient.Clusters), "static_clusters": static,
		"dynamic_active_clusters": dynamic(active, "cluster", body), "dynamic_warming_clusters": dynamic(warm, "cluster", body),
	}
}

func (p *Proxy) endpointsDump() object {
	return object{
		"@type": dumpType("EndpointsConfigDump"),
		"dynamic_endpoint_configs": dynamic(p.entries(xdsclient.Endpoints), "endpoint_config", func(b []byte) proto.Message {
			return decode(b, newAssignment())
		}),
	}
}

func (p *Proxy) listenersDump() object {
	static := []object{}
	for _, l := range p.Bootstrap.GetStaticResources().GetListeners() {
		static = append(static, object{"listener": typed(l), "last_updated": stamp(p.Started)})
	}
	warming := map[string]bool{}
	for _, n := range p.Listeners.Warming() {
		warming[n] = true
	}
	out := []object{}
	for _, e := range p.entries(xdsclient.Listeners) {
		o := object{"name": e.Name, "client_status": "ACKED"}
		if e.Body != nil {
			state := object{"version_info": e.Version, "last_updated": stamp(e.Updated), "listener": typed(decode(e.Body, new(listenerv3.Listener)))}
			if warming[e.Name] {
				o["warming_state"] = state
			} else {
				o["active_state"] = state
			}
		}
		if e.Rejected != "" {
			o["error_state"], o["client_status"] = errorState(e), "NACKED"
		}
		out = append(out, o)
	}
	return object{"@type": dumpType("ListenersConfigDump"), "version_info": p.version(xdsclient.Listeners), "static_listeners": static, "dynamic_listeners": out}
}

// routesDump shows virtual hosts that are resources of their own inside their
// route configuration, as readers of Envoy's dump expect them. The newest of
// their versions is the configuration's.
func (p *Proxy) routesDump() object {
	hosts := map[string][]xdsclient.Entry{}
	for _, e := range p.entries(xdsclient.VirtualHosts) {
		if i := strings.LastIndexByte(e.Name, '/'); i > 0 && e.Body != nil {
			hosts[e.Name[:i]] = append(hosts[e.Name[:i]], e)
		}
	}
	out := []object{}
	for _, e := range p.entries(xdsclient.Routes) {
		o := object{"client_status": "ACKED"}
		if e.Body != nil {
			rc := decode(e.Body, new(routev3.RouteConfiguration))
			updated := e.Updated
			var found []*routev3.VirtualHost
			for _, h := range hosts[e.Name] {
				found = append(found, decode(h.Body, new(routev3.VirtualHost)))
				if h.Updated.After(updated) {
					updated = h.Updated
				}
			}
			rc.VirtualHosts = append(found, rc.GetVirtualHosts()...)
			o["version_info"], o["last_updated"], o["route_config"] = e.Version, stamp(updated), typed(rc)
		}
		if e.Rejected != "" {
			o["error_state"], o["client_status"] = errorState(e), "NACKED"
		}
		out = append(out, o)
	}
	return object{"@type": dumpType("RoutesConfigDump"), "static_route_configs": p.inlineRoutes(), "dynamic_route_configs": out}
}

// inlineRoutes are the route configurations inside listeners.
func (p *Proxy) inlineRoutes() []object {
	out := []object{}
	add := func(l *listenerv3.Listener, at time.Time) {
		chains := l.GetFilterChains()
		if d := l.GetDefaultFilterChain(); d != nil {
			chains = append(chains[:len(chains):len(chains)], d)
		}
		for _, fc := range chains {
			for _, f := range fc.GetFilters() {
				m := new(hcmv3.HttpConnectionManager)
				if f.GetTypedConfig().MessageIs(m) && f.GetTypedConfig().UnmarshalTo(m) == nil && m.GetRouteConfig() != nil {
					out = append(out, object{"route_config": typed(m.GetRouteConfig()), "last_updated": stamp(at)})
				}
			}
		}
	}
	for _, l := range p.Bootstrap.GetStaticResources().GetListeners() {
		add(l, p.Started)
	}
	for _, e := range p.entries(xdsclient.Listeners) {
		if e.Body != nil {
			add(decode(e.Body, new(listenerv3.Listener)), e.Updated)
		}
	}
	return out
}
