// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"net/http"
	"slices"
	"strings"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

func (p *plane) findings(*http.Request) (*api.FindingList, error) {
	out := &api.FindingList{Items: []api.Finding{}}
	for _, x := range p.store.Problems() {
		f := api.Finding{Code: api.CodeFile, Severity: string(x.Severity), Object: x.Object, Message: x.Message}
		if f.Source = x.File; x.Line > 0 {
			f.Source += ":" + itoa(x.Line)
		}
		if x.Field != "" {
			f.Message = x.Field + ": " + f.Message
		}
		if x.Fix != "" {
			f.Message += "; " + x.Fix
		}
		out.Items = append(out.Items, f)
	}
	for _, h := range p.publisher.held() {
		out.Items = append(out.Items, api.Finding{Code: api.CodeHeld, Severity: "warning", Object: h.Key.String(), Message: h.Reason})
	}
	for _, h := range p.publisher.dangling() {
		out.Items = append(out.Items, api.Finding{Code: api.CodeMissing, Severity: "warning", Object: h.Key.String(), Message: h.Reason})
	}
	for _, c := range p.ads.Status() {
		for _, t := range c.Types {
			if t.Nack != nil {
				out.Items = append(out.Items, p.refusals(c.Proxy, t)...)
			}
		}
	}
	return out, nil
}

// refusals says of which objects a proxy refused something: those that the
// refusal names, else those of all that it was about.
func (p *plane) refusals(proxy string, t ads.TypeStatus) []api.Finding {
	named := slices.DeleteFunc(slices.Clone(t.Nack.Resources), func(r string) bool { return !strings.Contains(t.Nack.Message, r) })
	if len(named) == 0 {
		named = t.Nack.Resources
	}
	var out []api.Finding
	for _, r := range named {
		f := api.Finding{
			Code: api.CodeRefused, Severity: "error", Object: objectOf(p.publisher.pipeline.Origin(t.TypeURL, r)),
			Message: "proxy " + proxy + " refused " + r + ": " + t.Nack.Message,
		}
		out = append(out, f)
	}
	return out
}

// objectOf turns a provenance path into kind/namespace/name.
func objectOf(path string) string {
	parts := strings.Split(path, "/") // "", apis, group, version, namespaces, ns, slug, name
	if len(parts) != 8 {
		return ""
	}
	for _, k := range config.Kinds() {
		if k.Slug == parts[6] {
			return config.Key{Kind: k, Namespace: parts[5], Name: parts[7]}.String()
		}
	}
	return ""
}
