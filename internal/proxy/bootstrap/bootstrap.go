// SPDX-License-Identifier: Apache-2.0

// Package bootstrap reads the file lateen-proxy starts from: an Envoy v3
// bootstrap in YAML or JSON, strictly.
package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/fieldpolicy"
)

// Options change how strictly a file is read.
type Options struct {
	// AllowUnknownFields ignores fields that no message has, as Envoy's
	// --allow-unknown-static-fields does, and fields that lateen-proxy does not
	// support.
	AllowUnknownFields bool
}

// Bootstrap is a decoded and checked bootstrap. It is immutable.
type Bootstrap struct {
	// Message is the file as it was read.
	Message *bootstrapv3.Bootstrap
	// Node is what the proxy says of itself to a control plane; never nil.
	Node *corev3.Node
	// ADS is how to reach the control plane, nil when everything is static.
	ADS *ADS
	// CDS and LDS say that clusters and listeners come over ADS.
	CDS, LDS bool
}

// ADS is dynamic_resources.ads_config with its cluster looked up.
type ADS struct {
	Cluster *clusterv3.Cluster
	// Authority overrides the :authority of the stream, empty keeps the cluster's.
	Authority string
	// Metadata are headers sent when the stream opens.
	Metadata []*corev3.HeaderValue
}

// maxFile bounds the size of a bootstrap in bytes.
const maxFile = 64 << 20

// Load reads the bootstrap at path. Whether it is YAML or JSON follows from its
// content.
func Load(path string, o Options) (*Bootstrap, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap: %w", err)
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("bootstrap %s: %d bytes, at most %d are read", path, fi.Size(), maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap: %w", err)
	}
	bs, err := Parse(b, o)
	if err != nil {
		return nil, fmt.Errorf("bootstrap %s: %w", path, err)
	}
	return bs, nil
}

// Parse decodes and checks a bootstrap. Extension types are those of the
// message packages linked into the program.
func Parse(b []byte, o Options) (*Bootstrap, error) {
	text, tree, err := toJSON(b)
	if err != nil {
		return nil, err
	}
	m := &bootstrapv3.Bootstrap{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: o.AllowUnknownFields}).Unmarshal(text, m); err != nil {
		return nil, explain(err, tree)
	}
	if !o.AllowUnknownFields {
		if err := fieldpolicy.Check(m); err != nil {
			return nil, err
		}
	}
	bs := &Bootstrap{Message: m, Node: m.GetNode()}
	if bs.Node == nil {
		bs.Node = &corev3.Node{}
	}
	return bs, bs.resolve()
}

// toJSON returns the text as JSON and, when it was YAML, its tree.
func toJSON(b []byte) ([]byte, *yaml.Node, error) {
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' && json.Valid(t) {
		return t, nil, nil
	}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		return nil, nil, err
	}
	if root.Kind == 0 {
		return nil, nil, errors.New("the file is empty")
	}
	var v map[string]any
	if err := root.Decode(&v); err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, nil, fmt.Errorf("turn YAML into JSON: %w", err)
	}
	return text, &root, nil
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)

// explain gives a decoding error the YAML line of the field it names: the
// decoder's own position is one of the JSON nobody has seen.
func explain(err error, tree *yaml.Node) error {
	m := unknownField.FindStringSubmatch(err.Error())
	if m == nil {
		return fmt.Errorf("decode: %w", err)
	}
	if line := lineOf(tree, m[1]); line > 0 {
		return fmt.Errorf("line %d: unknown field %q", line, m[1])
	}
	return fmt.Errorf("unknown field %q: %w", m[1], err)
}

// lineOf returns the line of the first mapping key of that name, 0 when there
// is none.
func lineOf(n *yaml.Node, key string) int {
	if n == nil {
		return 0
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Value == key {
			return c.Line
		}
		if line := lineOf(c, key); line > 0 {
			return line
		}
	}
	return 0
}

// resolve looks up what the bootstrap refers to by name.
func (bs *Bootstrap) resolve() error {
	m := bs.Message
	clusters := map[string]*clusterv3.Cluster{}
	for _, c := range m.GetStaticResources().GetClusters() {
		if c.GetName() == "" {
			return errors.New("static_resources.clusters: a cluster has no name")
		}
		if clusters[c.GetName()] != nil {
			return fmt.Errorf("static_resources.clusters: %q is defined twice", c.GetName())
		}
		clusters[c.GetName()] = c
	}
	dyn := m.GetDynamicResources()
	for field, src := range map[string]*corev3.ConfigSource{"cds_config": dyn.GetCdsConfig(), "lds_config": dyn.GetLdsConfig()} {
		if src != nil && src.GetAds() == nil {
			return fmt.Errorf("dynamic_resources.%s: only ads is supported", field)
		}
	}
	bs.CDS, bs.LDS = dyn.GetCdsConfig() != nil, dyn.GetLdsConfig() != nil
	ads := dyn.GetAdsConfig()
	if ads == nil {
		if bs.CDS || bs.LDS {
			return errors.New("dynamic_resources: cds_config or lds_config asks for ads, ads_config is missing")
		}
		return nil
	}
	switch ads.GetApiType() {
	case corev3.ApiConfigSource_GRPC, corev3.ApiConfigSource_DELTA_GRPC:
	default:
		return fmt.Errorf("dynamic_resources.ads_config.api_type: %v is not supported, use DELTA_GRPC", ads.GetApiType())
	}
	if n := len(ads.GetGrpcServices()); n != 1 {
		return fmt.Errorf("dynamic_resources.ads_config.grpc_services: %d services, want 1", n)
	}
	svc := ads.GetGrpcServices()[0]
	name := svc.GetEnvoyGrpc().GetClusterName()
	c := clusters[name]
	if c == nil {
		return fmt.Errorf("dynamic_resources.ads_config: cluster %q is not among static_resources.clusters", name)
	}
	bs.ADS = &ADS{Cluster: c, Authority: svc.GetEnvoyGrpc().GetAuthority(), Metadata: svc.GetInitialMetadata()}
	return nil
}

// AdminAddress is where the admin port listens: network and address as
// net.Listen takes them, empty when there is none.
func (bs *Bootstrap) AdminAddress() (network, address string, err error) {
	a := bs.Message.GetAdmin().GetAddress()
	if a == nil {
		return "", "", nil
	}
	return ListenAddress(a)
}

// ListenAddress turns an Address message into network and address as net.Listen
// takes them.
func ListenAddress(a *corev3.Address) (network, address string, err error) {
	switch t := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		s := t.SocketAddress
		if s.GetProtocol() != corev3.SocketAddress_TCP {
			return "", "", fmt.Errorf("address %s: protocol %v is not supported", s.GetAddress(), s.GetProtocol())
		}
		return "tcp", joinHostPort(s.GetAddress(), s.GetPortValue()), nil
	case *corev3.Address_Pipe:
		return "unix", t.Pipe.GetPath(), nil
	}
	return "", "", errors.New("address: neither socket_address nor pipe is set")
}

func joinHostPort(host string, port uint32) string {
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}
