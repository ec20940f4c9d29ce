// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// NameTableType is what a proxy's DNS server answers from; there is one resource.
const (
	NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"
	nameTableName = "names"
)

// appendName writes an entry of istio.networking.nds.v1.NameTable:
//
//	message NameTable { map<string, NameInfo> table = 1; }
//	message NameInfo { repeated string ips = 1; string registry = 2; string shortname = 3; string namespace = 4; }
//
// Istio publishes that message in no module that could be used here.
func appendName(b []byte, n *mesh.Name) []byte {
	text := func(b []byte, field protowire.Number, s string) []byte {
		if s == "" {
			return b
		}
		return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
	}
	var info []byte
	for _, ip := range n.IPs {
		info = text(info, 1, ip)
	}
	info = text(text(text(info, 2, n.Registry), 3, n.Shortname), 4, n.Namespace)
	entry := text(nil, 1, n.Host)
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), info)
	return protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), entry)
}

// deriveNames makes a name table for each list of services that some proxy with
// DNS capture sees. A service's entries are made once for all tables.
func (v *views) deriveNames(g *graph.Graph) {
	lists := graph.Union(g, "name-lists", v.classes, func(c *graph.Ctx, class Class, _ bool, want func(scopeKey)) {
		if class.DNS {
			if k, ok := graph.Fetch(c, v.scopeOf, class); ok {
				want(k)
			}
		}
	})
	ids := graph.Union(g, "named-services", lists, func(c *graph.Ctx, k scopeKey, _ struct{}, want func(mesh.ServiceID)) {
		if s, ok := graph.Fetch(c, v.out.scopes, k); ok {
			for _, ref := range s.Services {
				want(ref.ID)
			}
		}
	})
	entries := graph.Map(g, "names-of-service", ids, func(c *graph.Ctx, id mesh.ServiceID, _ struct{}) (string, bool) {
		svc, ok := graph.Fetch(c, v.services, id)
		if !ok {
			return "", false
		}
		in := compile.NamesInput{Service: svc}
		in.Auto, _ = graph.Fetch(c, v.autoAddresses, id)
		if svc.Headless {
			in.Endpoints, _ = graph.Fetch(c, v.sources.endpoints, id)
		}
		var b []byte
		for _, n := range compile.Names(in) {
			b = appendName(b, &n)
		}
		return string(b), true
	}, nil)
	v.names = graph.Map(g, "name-tables", lists, func(c *graph.Ctx, k scopeKey, _ struct{}) (Set, bool) {
		s, ok := graph.Fetch(c, v.out.scopes, k)
		if !ok {
			return nil, false
		}
		var b []byte
		for _, ref := range s.Services {
			e, _ := graph.Fetch(c, entries, ref.ID)
			b = append(b, e...)
		}
		return Set{v.interner.makeRaw(NameTableType, nameTableName, b)}, true
	}, sameSet)
}
