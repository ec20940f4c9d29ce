// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

func headerOps(h *networking.Headers) mesh.HeaderOps {
	if h == nil {
		return mesh.HeaderOps{}
	}
	req, resp := h.Request, h.Response
	ops := mesh.HeaderOps{
		RequestSet: headerList(req.GetSet()), RequestAdd: headerList(req.GetAdd()), RequestRemove: slices.Clone(req.GetRemove()),
		ResponseSet: headerList(resp.GetSet()), ResponseAdd: headerList(resp.GetAdd()), ResponseRemove: slices.Clone(resp.GetRemove()),
	}
	ops.RequestSet = slices.DeleteFunc(ops.RequestSet, isHostHeader)
	return ops
}

func headerList(m map[string]string) []mesh.Header {
	var out []mesh.Header
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, mesh.Header{Name: k, Value: m[k]})
	}
	return out
}

func isHostHeader(h mesh.Header) bool {
	return strings.EqualFold(h.Name, "host") || strings.EqualFold(h.Name, ":authority")
}

// routeHost returns the value that request headers set for the host: that is a
// rewrite of the authority, not a header operation.
func routeHost(h *networking.Headers) string {
	for _, k := range slices.Sorted(maps.Keys(h.GetRequest().GetSet())) {
		if isHostHeader(mesh.Header{Name: k}) {
			return h.Request.Set[k]
		}
	}
	return ""
}

// defaultRetryOn is Istio's default for outbound requests.
const defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"

// retry compiles a retry policy: the route's, else the mesh's, else Istio's
// default of two. Consistent hashing wants the same host again, so previous
// hosts are not avoided then.
func retry(r *networking.HTTPRetry, opts *Options, consistent bool) *mesh.Retry {
	if r == nil {
		r = opts.DefaultRetry
	}
	if r == nil {
		return &mesh.Retry{On: defaultRetryOn, Attempts: 2, AvoidPrevious: !consistent}
	}
	if r.Attempts <= 0 {
		return nil
	}
	out := &mesh.Retry{
		On: defaultRetryOn, Attempts: uint32(r.Attempts), PerTryTimeout: r.PerTryTimeout.AsDuration(),
		Backoff:       r.Backoff.AsDuration(),
		AvoidPrevious: !consistent && (r.RetryIgnorePreviousHosts == nil || r.RetryIgnorePreviousHosts.Value),
	}
	if r.RetryOn == "" {
		return out
	}
	var on []string
	for _, part := range strings.Split(r.RetryOn, ",") {
		part = strings.TrimSpace(part)
		if code, err := strconv.ParseUint(part, 10, 16); err == nil {
			out.StatusCodes = append(out.StatusCodes, uint32(code))
		} else if part != "" {
			on = append(on, part)
		}
	}
	if len(out.StatusCodes) > 0 && !slices.Contains(on, "retriable-status-codes") {
		on = append(on, "retriable-status-codes")
	}
	out.On = strings.Join(on, ",")
	return out
}
