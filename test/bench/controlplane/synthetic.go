// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/xds"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

// startSynthetic starts the discovery service alone, in a process of its own.
func startSynthetic(p *plan) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{what: "discovery service alone", cmd: exec.Command(self, "serve", "-services", fmt.Sprint(p.services), "-endpoints", fmt.Sprint(p.endpoints))}
	begin := time.Now()
	in, out, err := start(s.cmd)
	if err != nil {
		return nil, err
	}
	if !out.Scan() {
		return nil, fmt.Errorf("the discovery service did not start: %v", out.Err())
	}
	s.addr, s.startup = out.Text(), time.Since(begin)
	s.changeEndpoint = func(n int) error { _, err := fmt.Fprintln(in, "endpoint", n); return err }
	s.changeRoute = func(n int) error { _, err := fmt.Fprintln(in, "route", n); return err }
	return s, nil
}

// everyone is a source with one class.
type everyone struct{ *ads.Feed }

func (e everyone) Connect(context.Context, *ads.Client) (ads.Subscription, error) { return e, nil }
func (everyone) Class() string                                                    { return "everyone" }
func (everyone) Close()                                                           {}

func runSynthetic(args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	services := fs.Int("services", 1, "")
	endpoints := fs.Int("endpoints", 1, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	v := &xds.View{Epoch: 1, Sets: map[string]xds.Set{}}
	for i := range *services {
		host := fmt.Sprintf("svc-%d.ns-%d.svc.cluster.local", i, i%50)
		add(v, clusterType, "outbound|80||"+host, madeCluster(host))
		add(v, endpointType, "outbound|80||"+host, madeEndpoints(host, *endpoints, 0))
		add(v, hostType, "80/"+host, madeHost(host, 0))
	}
	add(v, listenerType, "0.0.0.0_80", madeListener())
	add(v, routeType, "80", &routev3.RouteConfiguration{Name: "80", Vhds: &routev3.Vhds{ConfigSource: &corev3.ConfigSource{}}})
	for _, s := range v.Sets {
		slices.SortFunc(s, func(a, b *xds.Resource) int { return strings.Compare(a.Name, b.Name) })
	}
	feed := ads.NewFeed(v)
	g := grpc.NewServer(ads.GRPCOptions(0)...)
	ads.NewServer(everyone{feed}, ads.Options{}).Register(g, ads.Access{})
	go g.Serve(l)
	fmt.Fprintln(out, l.Addr())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var what string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &what, &n); err != nil {
			return err
		}
		next := &xds.View{Epoch: v.Epoch + 1, Sets: map[string]xds.Set{}}
		for url, s := range v.Sets {
			next.Sets[url] = s
		}
		switch what {
		case "endpoint":
			change(next, endpointType, "outbound|80||"+changedHost, madeEndpoints(changedHost, *endpoints, n+1))
		case "route":
			change(next, hostType, "80/"+changedHost, madeHost(changedHost, n+1))
		}
		v = next
		feed.Publish(v)
	}
	return nil
}

func made(url, name string, m proto.Message) *xds.Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // messages made here are valid
	}
	return xds.NewResource(url, name, b)
}

func add(v *xds.View, url, name string, m proto.Message) {
	v.Sets[url] = append(v.Sets[url], made(url, name, m))
}

func change(v *xds.View, url, name string, m proto.Message) {
	s := slices.Clone(v.Sets[url])
	s[slices.Index(s, s.Get(name))] = made(url, name, m)
	v.Sets[url] = s
}

func madeCluster(host string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 "outbound|80||" + host,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{ServiceName: "outbound|80||" + host, EdsConfig: &corev3.ConfigSource{}},
		AltStatName:          strings.Repeat("x", 600), // Istio's clusters are about 1 KB
	}
}

func madeEndpoints(host string, n, version int) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for i := range n {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: fmt.Sprintf("10.1.%d.%d", version%250, i), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8080},
			}}},
			Hostname: strings.Repeat("x", 60),
		}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: "outbound|80||" + host, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func madeHost(host string, version int) *routev3.VirtualHost {
	short, _, _ := strings.Cut(host, ".")
	return &routev3.VirtualHost{
		Name: host + ":80", Domains: []string{host, host + ":80", short, strings.Repeat("x", 400)},
		IncludeRequestAttemptCount: version%2 == 1,
	}
}

func madeListener() *listenerv3.Listener {
	hcm, err := anypb.New(&hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "80"}}})
	if err != nil {
		panic(err) // the message made here is valid
	}
	return &listenerv3.Listener{Name: "0.0.0.0_80", FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}},
	}}}
}
