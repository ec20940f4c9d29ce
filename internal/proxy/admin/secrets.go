// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/pem"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func newCluster() *clusterv3.Cluster                   { return new(clusterv3.Cluster) }
func newAssignment() *endpointv3.ClusterLoadAssignment { return new(endpointv3.ClusterLoadAssignment) }

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// secretsDump rebuilds the secrets from what is public of them: keys are
// "[redacted]", as in Envoy.
func (p *Proxy) secretsDump() object {
	active, warming := []object{}, []object{}
	for _, i := range p.Secrets.Infos(time.Now()) {
		if !i.Active {
			warming = append(warming, object{"name": i.Name, "version_info": "uninitialized", "last_updated": stamp(i.Updated)})
			continue
		}
		var bundle []byte
		for _, der := range i.DER {
			bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		s := &tlsv3.Secret{Name: i.Name}
		if i.Trust {
			s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(bundle)}}
		} else {
			s.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(bundle), PrivateKey: inline([]byte("[redacted]"))}}
		}
		active = append(active, object{
			"name": i.Name, "version_info": stamp(i.Updated), "last_updated": stamp(i.Updated), "secret": marshal(pack(s)),
		})
	}
	return object{"@type": dumpType("SecretsConfigDump"), "dynamic_active_secrets": active, "dynamic_warming_secrets": warming}
}

func pack(m proto.Message) proto.Message {
	a, err := anypb.New(m)
	if err != nil {
		return &anypb.Any{}
	}
	return a
}
