// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// mergeDelegate puts a delegate's route under the root route that hands over
// to it: both must match, the delegate's values go before the root's. It
// returns nil when no request can match both. Neither argument is changed.
func mergeDelegate(root, d *networking.HTTPRoute) *networking.HTTPRoute {
	matches, possible := mergeMatches(root.Match, d.Match)
	if !possible {
		return nil
	}
	out := proto.Clone(d).(*networking.HTTPRoute)
	out.Match = matches
	switch {
	case out.Name == "":
		out.Name = root.Name
	case root.Name != "":
		out.Name = root.Name + "-" + out.Name
	}
	inherit(&out.Rewrite, root.Rewrite)
	inherit(&out.DirectResponse, root.DirectResponse)
	inherit(&out.Timeout, root.Timeout)
	inherit(&out.Retries, root.Retries)
	inherit(&out.Fault, root.Fault)
	inherit(&out.Mirror, root.Mirror)
	inherit(&out.MirrorPercentage, root.MirrorPercentage)
	inherit(&out.CorsPolicy, root.CorsPolicy)
	inherit(&out.Headers, root.Headers)
	if len(out.Mirrors) == 0 {
		out.Mirrors = root.Mirrors
	}
	return out
}

func inherit[T any](field **T, root *T) {
	if *field == nil {
		*field = root
	}
}

func mergeMatches(root, d []*networking.HTTPMatchRequest) ([]*networking.HTTPMatchRequest, bool) {
	if len(root) == 0 {
		return d, true
	}
	if len(d) == 0 {
		return root, true
	}
	var out []*networking.HTTPMatchRequest
	for _, r := range root {
		for _, m := range d {
			if merged := mergeMatch(r, m); merged != nil {
				out = append(out, merged)
			}
		}
	}
	return out, len(out) > 0
}

// mergeMatch returns a match for requests that match both, or nil if that
// cannot be said in one match.
func mergeMatch(r, d *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
	out := proto.Clone(d).(*networking.HTTPMatchRequest)
	ok := true
	out.Uri = bothStrings(r.Uri, d.Uri, &ok)
	out.Scheme = bothStrings(r.Scheme, d.Scheme, &ok)
	out.Method = bothStrings(r.Method, d.Method, &ok)
	out.Authority = bothStrings(r.Authority, d.Authority, &ok)
	out.Headers = bothMaps(r.Headers, d.Headers, &ok)
	out.WithoutHeaders = bothMaps(r.WithoutHeaders, d.WithoutHeaders, &ok)
	out.QueryParams = bothMaps(r.QueryParams, d.QueryParams, &ok)
	out.IgnoreUriCase = r.IgnoreUriCase || d.IgnoreUriCase
	if r.Port != 0 {
		ok = ok && (d.Port == 0 || d.Port == r.Port)
		out.Port = r.Port
	}
	if len(d.Gateways) == 0 {
		out.Gateways = r.Gateways
	}
	if len(r.SourceLabels) > 0 {
		out.SourceLabels = maps.Clone(r.SourceLabels)
		maps.Copy(out.SourceLabels, d.SourceLabels)
	}
	if r.SourceNamespace != "" {
		ok = ok && (d.SourceNamespace == "" || d.SourceNamespace == r.SourceNamespace)
		out.SourceNamespace = r.SourceNamespace
	}
	if r.Name != "" {
		out.Name = r.Name
		if d.Name != "" {
			out.Name += "-" + d.Name
		}
	}
	if !ok {
		return nil
	}
	return out
}

// bothStrings returns the narrower of two matches, clearing ok if neither is.
func bothStrings(r, d *networking.StringMatch, ok *bool) *networking.StringMatch {
	switch {
	case r == nil:
		return d
	case d == nil:
		return r
	case proto.Equal(r, d):
		return d
	}
	if p, isPrefix := r.MatchType.(*networking.StringMatch_Prefix); isPrefix {
		var v string
		switch m := d.MatchType.(type) {
		case *networking.StringMatch_Prefix:
			v = m.Prefix
		case *networking.StringMatch_Exact:
			v = m.Exact
		}
		if len(v) >= len(p.Prefix) && v[:len(p.Prefix)] == p.Prefix {
			return d
		}
	}
	*ok = false
	return nil
}

func bothMaps(r, d map[string]*networking.StringMatch, ok *bool) map[string]*networking.StringMatch {
	if len(r) == 0 {
		return d
	}
	out := maps.Clone(r)
	for k, v := range d {
		out[k] = bothStrings(r[k], v, ok)
	}
	return out
}
