// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func config(t testing.TB, json string) *Config {
	t.Helper()
	m := &faultv3.HTTPFault{}
	if err := protojson.Unmarshal([]byte(json), m); err != nil {
		t.Fatal(err)
	}
	c, err := Compile(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(headers ...string) *message.Request {
	r := &message.Request{Method: []byte("GET"), Path: []byte("/")}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add([]byte(headers[i]), []byte(headers[i+1]))
	}
	return r
}

func TestDecisions(t *testing.T) {
	cases := []struct {
		rule, json string
		req        *message.Request
		want       Decision
	}{
		{"delay", `{"delay":{"fixedDelay":"7s","percentage":{"numerator":100}}}`, request(), Decision{Delay: 7 * time.Second, GRPCStatus: -1}},
		{"abort", `{"abort":{"httpStatus":500,"percentage":{"numerator":100}}}`, request(), Decision{Abort: true, Status: 500, GRPCStatus: -1}},
		{"both", `{"delay":{"fixedDelay":"1s","percentage":{"numerator":100}},"abort":{"httpStatus":404,"percentage":{"numerator":100}}}`, request(), Decision{Delay: time.Second, Abort: true, Status: 404, GRPCStatus: -1}},
		{"gRPC status", `{"abort":{"grpcStatus":14,"percentage":{"numerator":1000000,"denominator":"MILLION"}}}`, request(), Decision{Abort: true, Status: 503, GRPCStatus: 14}},
		{"0 percent", `{"abort":{"httpStatus":500,"percentage":{}}}`, request(), Decision{}},
		{"no percentage is 0", `{"abort":{"httpStatus":500}}`, request(), Decision{}},
		{"headers must match", `{"headers":[{"name":"end-user","stringMatch":{"exact":"jason"}}],"abort":{"httpStatus":500,"percentage":{"numerator":100}}}`, request(), Decision{}},
		{"headers match", `{"headers":[{"name":"end-user","stringMatch":{"exact":"jason"}}],"abort":{"httpStatus":500,"percentage":{"numerator":100}}}`, request("end-user", "jason"), Decision{Abort: true, Status: 500, GRPCStatus: -1}},
		{"another cluster", `{"upstreamCluster":"other","abort":{"httpStatus":500,"percentage":{"numerator":100}}}`, request(), Decision{}},
		{"another node", `{"downstreamNodes":["n1"],"abort":{"httpStatus":500,"percentage":{"numerator":100}}}`, request("x-envoy-downstream-service-node", "n2"), Decision{}},
	}
	for _, c := range cases {
		f := NewFilter(config(t, c.json), func() uint64 { return 0 })
		if got := f.Decide(nil, c.req, "cluster"); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.rule, got, c.want)
		}
	}
}

func TestRouteReplacesFilter(t *testing.T) {
	f := NewFilter(config(t, `{"abort":{"httpStatus":500,"percentage":{"numerator":100}}}`), nil)
	route := config(t, `{"abort":{"httpStatus":418,"percentage":{"numerator":100}}}`)
	if d := f.Decide(route, request(), ""); d.Status != 418 {
		t.Errorf("got %+v", d)
	}
	none := NewFilter(nil, nil)
	if d := none.Decide(nil, request(), ""); d.Active() {
		t.Errorf("got %+v", d)
	}
}

func TestPercentagesAreIndependent(t *testing.T) {
	c := config(t, `{"delay":{"fixedDelay":"1s","percentage":{"numerator":50}},"abort":{"httpStatus":500,"percentage":{"numerator":20}}}`)
	f := NewFilter(c, rand.New(rand.NewPCG(3, 4)).Uint64)
	const n = 20000
	var delays, aborts, both float64
	for range n {
		d := f.Decide(nil, request(), "")
		if d.Delay > 0 {
			delays++
		}
		if d.Abort {
			aborts++
		}
		if d.Delay > 0 && d.Abort {
			both++
		}
		if d.Active() {
			f.End()
		}
	}
	for _, x := range []struct{ got, p float64 }{{delays, 0.5}, {aborts, 0.2}, {both, 0.1}} {
		if math.Abs(x.got-n*x.p) > 5*math.Sqrt(n*x.p*(1-x.p)) {
			t.Errorf("got %v of %d, want a share of %v", x.got, n, x.p)
		}
	}
	if f.ActiveFaults() != 0 {
		t.Errorf("%d faults are active", f.ActiveFaults())
	}
}

func TestMaxActiveFaults(t *testing.T) {
	f := NewFilter(config(t, `{"maxActiveFaults":1,"delay":{"fixedDelay":"1s","percentage":{"numerator":100}}}`), nil)
	first := f.Decide(nil, request(), "")
	second := f.Decide(nil, request(), "")
	if !first.Active() || second.Active() || !second.Overflow {
		t.Errorf("got %+v and %+v", first, second)
	}
	f.End()
	if d := f.Decide(nil, request(), ""); !d.Active() {
		t.Error("a finished fault still counts")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ json, want string }{
		{`{"delay":{"headerDelay":{}}}`, "delay.header_delay"},
		{`{"delay":{"fixedDelay":"0s"}}`, "delay.fixed_delay"},
		{`{"abort":{"httpStatus":199}}`, "abort.http_status"},
		{`{"abort":{"headerAbort":{}}}`, "abort.error_type"},
		{`{"responseRateLimit":{"fixedLimit":{"limitKbps":"1"}}}`, "response_rate_limit"},
		{`{"headers":[{"name":"x","stringMatch":{}}]}`, "headers[0]"},
	} {
		m := &faultv3.HTTPFault{}
		if err := protojson.Unmarshal([]byte(c.json), m); err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v", c.json, err)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	f := NewFilter(config(t, `{"headers":[{"name":"end-user","stringMatch":{"prefix":"j"}}],"delay":{"fixedDelay":"1s","percentage":{"numerator":50}}}`), nil)
	req := request("end-user", "jason")
	if n := testing.AllocsPerRun(100, func() {
		if d := f.Decide(nil, req, "c"); d.Active() {
			f.End()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
