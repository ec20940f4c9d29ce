// SPDX-License-Identifier: Apache-2.0

package image

import "fmt"

// Versions of the images that unmodified manifests ask for.
const (
	bookinfoVersion = "1.20.3" // samples/bookinfo/platform/kube
	bookinfoEarlier = "1.20.1" // what Istio 1.23's walkthroughs show
	curlVersion     = "8.16.0"
	httpbinVersion  = "v2.15.0"
)

// The user of the sample images, and Istio's of its proxy.
const (
	appUser  = "1000:1000"
	meshUser = "1337:1337"
)

// base is what every image of ours begins with: names for the users, and a
// place for temporary files.
func base() Layer {
	return Layer{Files: []File{
		{Path: "/etc/", Mode: 0o755},
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/sbin/nologin\n" +
			"app:x:1000:1000:app:/tmp:/sbin/nologin\nistio-proxy:x:1337:1337:istio-proxy:/tmp:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\napp:x:1000:\nistio-proxy:x:1337:\nnogroup:x:65534:\n")},
		{Path: "/tmp/", Mode: 0o1777},
	}}
}

// program is a Go program of the root module, in cmd/name.
func program(name string, links ...string) Layer {
	return Layer{Binary: &Binary{Module: ".", Package: "./cmd/" + name, Path: "/usr/local/bin/" + name, Links: links}}
}

// List names every image. tag is that of Lateen's own.
func List(tag string) []Spec {
	out := []Spec{
		{
			Archive: "lateend", Refs: []string{"docker.io/lateen/lateend:" + tag},
			Layers:     []Layer{base(), program("lateend")},
			Entrypoint: []string{"/usr/local/bin/lateend"}, User: meshUser,
			Ports: []int{8080, 15010, 15012, 15014, 15017},
		},
		{
			Archive: "lateen-proxy", Refs: []string{"docker.io/lateen/lateen-proxy:" + tag},
			Layers: []Layer{base(), {Files: []File{
				{Path: "/etc/istio/", Mode: 0o755},
				{Path: "/etc/istio/proxy/", Mode: 0o755, UID: 1337, GID: 1337},
				{Path: "/var/", Mode: 0o755},
				{Path: "/var/lib/", Mode: 0o755},
				{Path: "/var/lib/istio/", Mode: 0o755, UID: 1337, GID: 1337},
				{Path: "/var/lib/istio/data/", Mode: 0o755, UID: 1337, GID: 1337},
			}}, program("lateen-proxy", "/usr/local/bin/pilot-agent")},
			Entrypoint: []string{"/usr/local/bin/lateen-proxy"}, User: meshUser,
		},
	}
	return append(out, bookinfo()...)
}

// bookinfo are Istio's Bookinfo images: one program, told by the environment
// which service and version it is. There are none for its databases: ratings-v2
// keeps its ratings in memory.
func bookinfo() []Spec {
	var out []Spec
	for _, s := range []struct{ service, version string }{
		{"productpage", "v1"}, {"details", "v1"}, {"details", "v2"}, {"ratings", "v1"}, {"ratings", "v2"},
		{"reviews", "v1"}, {"reviews", "v2"}, {"reviews", "v3"},
	} {
		repo := fmt.Sprintf("examples-bookinfo-%s-%s:", s.service, s.version)
		out = append(out, Spec{
			Archive: "bookinfo",
			Refs: []string{
				"registry.istio.io/release/" + repo + bookinfoVersion,
				"docker.io/istio/" + repo + bookinfoVersion,
				"docker.io/istio/" + repo + bookinfoEarlier,
			},
			Layers:     []Layer{base(), program("bookinfo")},
			Env:        []string{"SERVICE_NAME=" + s.service, "SERVICE_VERSION=" + s.version},
			Entrypoint: []string{"/usr/local/bin/bookinfo"}, User: appUser, Ports: []int{9080},
		})
	}
	return out
}
