// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"strings"
)

// maxNames is how many names an error lists.
const maxNames = 5

func proxies() Category {
	return Category{"proxies", append(versions(), states()...)}
}

// versions are the checks of who answers and what it is.
func versions() []Check {
	return []Check{
		{
			Description: "control plane answers",
			Hint:        "you need the permission to port-forward to its pods: kubectl auth can-i create pods/portforward -n istio-system",
			Gate:        true,
			Run: func(ctx context.Context, e *Env) error {
				_, err := e.ask(ctx)
				return err
			},
		},
		{
			Description: "control plane is of this program's version",
			Hint:        "lateen upgrade, or use the lateen of that version",
			Run: ofMesh(func(e *Env, m Mesh) error {
				var other []string
				for _, p := range m.Planes {
					if p.Version != e.Version {
						other = append(other, p.Name+" ("+p.Version+")")
					}
				}
				if len(other) > 0 {
					return warn("this is %s, and other: %s", e.Version, names(other))
				}
				return nil
			}),
		},
		{
			Description: "proxies are of the control plane's version",
			Hint:        "restart their pods: kubectl rollout restart deployment NAME",
			Run: ofMesh(func(_ *Env, m Mesh) error {
				versions := map[string]bool{}
				for _, p := range m.Planes {
					versions[p.Version] = true
				}
				var other []string
				for _, p := range m.Proxies {
					if !versions[p.Version] {
						other = append(other, p.Name+" ("+p.Version+")")
					}
				}
				if len(other) > 0 {
					return warn("other: %s", names(other))
				}
				return nil
			}),
		},
		{
			Description: "proxies are connected with an identity",
			Hint:        "they use the plaintext port 15010: look at PROXY_CONFIG's discoveryAddress in their pods",
			Run: ofMesh(func(_ *Env, m Mesh) error {
				var plain []string
				for _, p := range m.Proxies {
					if p.Identity == "" {
						plain = append(plain, p.Name)
					}
				}
				if len(plain) > 0 {
					return warn("without: %s", names(plain))
				}
				return nil
			}),
		},
	}
}

// states are the checks of what the proxies run.
func states() []Check {
	return []Check{
		{
			Description: "no proxy refuses its configuration",
			Hint:        "lateen proxy status NAME says what and why; lateen get -A KIND which object it is from",
			Run: ofMesh(func(_ *Env, m Mesh) error {
				var bad []string
				for _, p := range m.Proxies {
					if len(p.Refused) > 0 {
						bad = append(bad, p.Name+" ("+strings.Join(p.Refused, "; ")+")")
					}
				}
				if len(bad) > 0 {
					return fmt.Errorf("%s", names(bad))
				}
				return nil
			}),
		},
		{
			Description: "proxies are up to date",
			Hint:        "wait a moment and run this again; then lateen proxy status, and the logs of the proxy",
			Run: ofMesh(func(_ *Env, m Mesh) error {
				var late []string
				for _, p := range m.Proxies {
					if len(p.Stale) > 0 {
						late = append(late, p.Name+" ("+strings.Join(p.Stale, ", ")+")")
					}
				}
				if len(late) > 0 {
					return warn("not acknowledged: %s", names(late))
				}
				return nil
			}),
		},
		{
			Description: "no configuration has errors",
			Hint:        "lateen get -A -o wide KIND shows the object and why it is not in force",
			Run: ofMesh(func(_ *Env, m Mesh) error {
				if len(m.Findings) > 0 {
					return warn("%s", names(m.Findings))
				}
				return nil
			}),
		},
	}
}

// ofMesh is a check of what the control plane says.
func ofMesh(f func(*Env, Mesh) error) func(context.Context, *Env) error {
	return func(ctx context.Context, e *Env) error {
		m, err := e.ask(ctx)
		if err != nil {
			return err
		}
		return f(e, m)
	}
}

func names(all []string) string {
	if len(all) > maxNames {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNames], ", "), len(all)-maxNames)
	}
	return strings.Join(all, ", ")
}
